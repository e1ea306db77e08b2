"""The verb ``logs``."""
