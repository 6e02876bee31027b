"""Draws pictures and writes pages: turns numbers and texts into pixels and contents of files."""
