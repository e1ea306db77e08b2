"""A TensorBoard logger for object storage, which uploads each value once."""

import time

import fsspec
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from getiaction.downloads.secrets import shown_cause, without_secrets
from getiaction.lightning_seams import close_event_file, has_event_file

PERIOD_SECONDS = 30.0
"""Time between two uploads of logged values, in seconds."""
_PATIENCE = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 5,
        "retries": {"total_max_attempts": 1},
    },
}


class RemoteTensorBoardLogger(TensorBoardLogger):
    """Lightning's `TensorBoardLogger` for a URL.

    Lightning saves after every value. An object store cannot append to a file, so TensorBoard would
    upload the whole event file again each time, which for n values makes a traffic of n² values.
    This logger uploads an event file when `PERIOD_SECONDS` have passed since the last upload, and
    then starts another one; TensorBoard shows them as one curve.

    Args:
        save_dir: URL of the folder that all experiments are in, such as `s3://bucket/runs`.
        name: Name of the experiment, which becomes a folder in `save_dir`.

    Raises:
        ValueError: The bucket does not exist or cannot be reached. Lightning would create it.
    """

    def __init__(self, save_dir: str, name: str) -> None:
        _check_bucket(save_dir)
        super().__init__(save_dir, name=name, default_hp_metric=False)
        self._next_at = 0.0

    @rank_zero_only
    def save(self) -> None:
        """Upload what was logged, unless the last upload was less than `PERIOD_SECONDS` ago."""
        if has_event_file(self) and time.monotonic() >= self._next_at:
            super().save()
            close_event_file(self)
            self._next_at = time.monotonic() + PERIOD_SECONDS


def _lists(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        filesystem.ls(path, detail=False)
    except FileNotFoundError:  # either the bucket is missing, or the path in it
        return False
    return True


def _check_bucket(url: str) -> None:
    protocol = url.partition("://")[0]
    options = _PATIENCE if protocol in {"s3", "s3a"} else {}
    try:
        filesystem, path = fsspec.url_to_fs(url, skip_instance_cache=True, **options)
        filesystem.retries = 1  # retries of s3fs itself, in addition to those of its client
        bucket = path.strip("/").partition("/")[0]
        # The path is listed first: `exists` alone also returns False if the server does not answer.
        is_there = protocol == "memory" or _lists(filesystem, path) or filesystem.exists(bucket)
    except Exception as error:  # noqa: BLE001 - each fsspec file system has its own exceptions
        problem = without_secrets(f"{type(error).__name__}: {error}", url)
        msg = (
            f"default_root_dir={without_secrets(url)!r} cannot be reached ({problem})."
            " Check the URL, the credentials and the server: for S3, AWS_PROFILE,"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."
        )
        raise ValueError(msg) from shown_cause(error, url)
    if not is_there:
        bucket = without_secrets(bucket, url)
        msg = (
            f"default_root_dir={without_secrets(url)!r}: there is no bucket {bucket!r}. Correct the"
            f" name, or create the bucket: aws s3 mb s3://{bucket}"
        )
        raise ValueError(msg)
