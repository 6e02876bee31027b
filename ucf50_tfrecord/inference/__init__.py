"""Uses of a trained run: predictions for new videos, and exports of its model to other programs."""
