"""Uses of a trained run: predictions on new videos, exports to other programs."""
