"""The verb ``ls``."""
