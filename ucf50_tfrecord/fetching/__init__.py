"""Fetching of published video sets: download, checks and unpacking into class folders."""
