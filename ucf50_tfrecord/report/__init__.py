"""The report of a comparison of models: its sections, and the files that hold it."""
