"""Runs as others see them: found under a root, and looked at in as few requests as possible."""
