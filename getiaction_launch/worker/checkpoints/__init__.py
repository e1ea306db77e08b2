"""Where checkpoints come from, and what becomes of them on remote storage."""
