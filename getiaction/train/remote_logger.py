"""TensorBoard's curves on object storage, where each value is sent once."""

import time

import fsspec
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from getiaction.lightning_seams import close_event_file, has_event_file

PERIOD_SECONDS = 30.0
"""How old the curves on storage are at most, while something is logged."""
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

    Lightning saves after every value. No object store can append, so TensorBoard sends all of an
    event file again each time: with `n` values, n² bytes. Here an event file is sent when it is
    :data:`PERIOD_SECONDS` old, and the next one begun; TensorBoard shows them as one curve.

    Args:
        save_dir: URL under which all experiments lie.
        name: The experiment's.

    Raises:
        ValueError: If the bucket is not there, or does not answer. Lightning would make it.
    """

    def __init__(self, save_dir: str, name: str) -> None:
        _check_bucket(save_dir)
        super().__init__(save_dir, name=name, default_hp_metric=False)
        self._next_at = 0.0

    @rank_zero_only
    def save(self) -> None:
        """Send what was logged, unless that was done a moment ago."""
        if has_event_file(self) and time.monotonic() >= self._next_at:
            super().save()
            close_event_file(self)
            self._next_at = time.monotonic() + PERIOD_SECONDS


def _lists(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        filesystem.ls(path, detail=False)
    except FileNotFoundError:  # the bucket, or nothing is under that name in it yet
        return False
    return True


def _check_bucket(url: str) -> None:
    protocol = url.partition("://")[0]
    options = _PATIENCE if protocol in {"s3", "s3a"} else {}
    try:
        filesystem, path = fsspec.url_to_fs(url, skip_instance_cache=True, **options)
        filesystem.retries = 1  # of s3fs, around those of its client
        bucket = path.strip("/").partition("/")[0]
        # Beware: to ask whether the bucket exists first would take silence for a no.
        is_there = protocol == "memory" or _lists(filesystem, path) or filesystem.exists(bucket)
    except Exception as error:  # each fsspec file system has its own
        msg = (
            f"default_root_dir={url!r} cannot be reached ({type(error).__name__}: {error})."
            " Check the URL, the credentials and the server: for S3, AWS_PROFILE,"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."
        )
        raise ValueError(msg) from error
    if not is_there:
        msg = (
            f"default_root_dir={url!r}: there is no bucket {bucket!r}. Correct the name, or make"
            f" the bucket: aws s3 mb s3://{bucket}"
        )
        raise ValueError(msg)
