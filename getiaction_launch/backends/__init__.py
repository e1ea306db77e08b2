"""The backends: one file each, siblings that do not know each other."""
