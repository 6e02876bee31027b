"""Tests a finished run on corrupted clips: noise, blur, re-encoded videos, and frames missing or out of order."""
