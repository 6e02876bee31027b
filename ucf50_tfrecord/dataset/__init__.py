"""The read side: reads shards and delivers batches of clips. Loads TensorFlow, never PyAV."""
