"""Streaming TFRecord training for video action recognition.

Importing this package does no work and loads nothing heavy: the write side
(`convert`) never loads TensorFlow, the read side never loads PyAV.
"""

__version__ = "0.1.0"
