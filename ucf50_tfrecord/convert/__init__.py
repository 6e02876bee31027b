"""The write side: converts videos into shards. Loads PyAV, never TensorFlow."""
