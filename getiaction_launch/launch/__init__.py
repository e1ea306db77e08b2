"""The Python door: prepare, check, submit, attach, resume, wait."""
