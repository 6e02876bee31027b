"""Features of frames: a frozen encoder computes them once, and shards store them in place of the frames."""
