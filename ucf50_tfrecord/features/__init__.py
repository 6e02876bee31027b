"""Features of frames, encoded once by a frozen encoder, and stored in shards in place of the frames."""
