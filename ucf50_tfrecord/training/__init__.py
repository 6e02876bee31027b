"""Trains models: the training loop, devices and workers, precision, checkpoints and logs."""
