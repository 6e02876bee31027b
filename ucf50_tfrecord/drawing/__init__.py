"""Pictures and pages: numbers and texts in, pixels and files' contents out."""
