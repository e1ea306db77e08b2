"""The verb ``resume``: what it reads, and what it says."""
