"""Any fsspec file system."""
