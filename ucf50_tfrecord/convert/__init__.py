"""The write side: videos in, shards out. Loads PyAV, never TensorFlow."""
