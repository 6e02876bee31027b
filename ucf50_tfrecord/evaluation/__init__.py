"""Scores on clips that training has not seen."""
