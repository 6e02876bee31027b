"""What a comparison found, as one page to read."""
