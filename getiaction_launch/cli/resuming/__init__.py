"""Parts of the verb ``resume``."""
