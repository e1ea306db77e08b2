"""Uploads and downloads of runs on remote storage."""
