"""Evaluation of models on clips that training has not seen: scores, interventions and comparisons."""
