"""The runs below a place: which there are, what is worth knowing of each, and in which order."""
