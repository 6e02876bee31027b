"""Monitors a stream of videos: tells whether it differs from the clips that a run was evaluated on."""
