"""The training loop and its parts: devices, precision, checkpoints, logs."""
