"""The training loop, and what it needs: devices, precision, checkpoints, logs."""
