"""Which version of each file was there when a folder was listed: no other one is downloaded later.

The rows of a dataset are downloaded at first, its videos while training runs. If it is recorded
again at its URL in between, the videos of other episodes would come with these rows. So the local
folder keeps the listing, and a file that is not the one in it is an error. S3 is asked for this
version alone. Elsewhere, the size of what was downloaded must be the one that was listed, as to ask
for more would take a request for each file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

FILE_NAME = "listing.json"
# How fsspec's file systems name what differs in each version of a file, the best one first.
_TAGS = (
    *("ETag", "generation", "etag", "blob_id", "mtime", "LastModified", "last_modified"),
    *("updated", "created"),
)
_PRECONDITION_FAILED = 412

# The versions that this process downloads now, by bucket and key.
_wanted: dict[tuple[str, str], str] = {}


class FileChangedError(OSError):
    """A file is not the one that was listed before."""

    def __init__(self) -> None:
        super().__init__("it is another file than the one that was listed before")


class Version(NamedTuple):
    """What a listing says about a file.

    Attributes:
        size: Size in bytes; None if it is not known.
        tag: What differs in other versions, as `ETag="1a2b"`; empty if it is not known.
    """

    size: int | None = None
    tag: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Version":
        """Return the version that an entry of fsspec's listings describes."""
        tags = (f"{key}={entry[key]}" for key in _TAGS if entry.get(key))
        return cls(entry.get("size"), next(tags, ""))


def note_versions(
    folder: Path, listed: Mapping[str, Version], *, again: bool = False
) -> str | None:
    """Keep the versions of files that are to be downloaded into a folder.

    Args:
        folder: Local folder of the files.
        listed: Version of each file, by its path in the folder.
        again: Whether all files are downloaded again, whatever was listed before.

    Returns:
        The path of a file of which an earlier listing had another version, if there is one; then
        that listing stays.
    """
    before = {} if again else read_versions(folder)
    changed = next(
        (name for name in listed if before.get(name, listed[name]) != listed[name]), None
    )
    if changed is None and not listed.items() <= before.items():
        file = folder / FILE_NAME
        unfinished = file.with_name(f"{FILE_NAME}.{os.getpid()}")
        with suppress(OSError):  # there is no room: the downloads will say so
            try:
                unfinished.write_text(json.dumps({**before, **listed}, allow_nan=False))
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
    return changed


def read_versions(folder: Path) -> Mapping[str, Version]:
    """Read the versions of a folder's files, by their paths; empty if it has no listing.

    Args:
        folder: Local folder of the files.
    """
    file = folder / FILE_NAME
    try:
        return _read(file, file.stat().st_mtime_ns)
    except (FileNotFoundError, AttributeError, TypeError, ValueError):
        return {}  # there is none, or it is damaged


@lru_cache(maxsize=4)  # each batch may need it
def _read(file: Path, modified_at_ns: int) -> Mapping[str, Version]:  # noqa: ARG001 - part of the key
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: Version(*version) for name, version in content.items()}


def get_file(filesystem: Any, remote: str, local: Path, version: Version) -> None:  # noqa: ANN401 - fsspec ships no types
    """Download a file if it is the one that was listed.

    Args:
        filesystem: File system of fsspec that has the file.
        remote: Path of the file in it.
        local: Local file that is written.
        version: What a listing has said about it.

    Raises:
        FileChangedError: It is another one.
    """
    kind, _, etag = version.tag.partition("=")
    if kind == "ETag" and "s3" in filesystem.protocol:
        try:
            with _only(filesystem, remote, etag):
                filesystem.get_file(remote, str(local))
        except FileChangedError:
            # Beware: some servers list other tags than they compare with.
            if _listed(filesystem, remote) != version:
                raise
            filesystem.get_file(remote, str(local))
    else:
        filesystem.get_file(remote, str(local))
    if version.size not in {None, local.stat().st_size}:
        raise FileChangedError


@contextmanager
def _only(filesystem: Any, remote: str, etag: str) -> Iterator[None]:  # noqa: ANN401 - as above
    """Have S3 refuse to send any other version of a file."""
    bucket, key, _ = filesystem.split_path(remote)
    # s3fs has no argument for it, so its client adds it to each request for a part of the file.
    filesystem.s3.meta.events.register(
        "before-parameter-build.s3.GetObject", _add_condition, unique_id=__name__
    )
    _wanted[bucket, key] = etag
    try:
        yield
    except OSError as error:
        answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
        if answer.get("HTTPStatusCode") != _PRECONDITION_FAILED:
            raise
        raise FileChangedError from error
    finally:
        _wanted.pop((bucket, key), None)


def _add_condition(params: dict[str, Any], **_: object) -> None:
    if etag := _wanted.get((params["Bucket"], params["Key"])):
        params["IfMatch"] = etag


def _listed(filesystem: Any, remote: str) -> Version | None:  # noqa: ANN401 - as above
    """Return the version of a file that a new listing has; None if the file has gone."""
    entries = filesystem.ls(remote.rpartition("/")[0], detail=True, refresh=True)
    return next((Version.of(each) for each in entries if each["name"] == remote), None)
