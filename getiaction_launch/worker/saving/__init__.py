"""Checkpoints: copied in memory at a step boundary, and written in the background."""
