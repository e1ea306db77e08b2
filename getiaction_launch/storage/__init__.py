"""Files on local disks and on every file system that fsspec supports."""
