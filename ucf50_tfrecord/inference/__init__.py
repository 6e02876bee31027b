"""What a trained run is good for: predictions on new videos, exports to other programs."""
