"""The read side: shards in, batches out. Loads TensorFlow, never PyAV."""
