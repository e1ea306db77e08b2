"""Single requests to a remote file system, where fsspec's own functions send several.

Before s3fs reads an object, it asks how long that is, to read the parts of a large one at the same
time; and where it lists nothing, it lists the directory above, too, which may be as large as the
bucket. S3 answers each in one request, and bills each.
"""

import inspect
from collections.abc import Iterator
from typing import Any


def is_s3(fs: Any) -> bool:  # noqa: ANN401 - fsspec has no types
    """Whether a file system is S3, or a store that speaks its protocol."""
    return "s3" in fs.protocol


def read_object(fs: Any, key: str) -> bytes:  # noqa: ANN401 - as above
    """Read a small object in one request.

    Args:
        fs: The fsspec file system.
        key: The key of the object.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    # Before 2026.3, s3fs had no such argument, and read every object in one request.
    is_split = is_s3(fs) and "max_concurrency" in inspect.signature(fs._cat_file).parameters  # noqa: SLF001 - of cat_file(), which shows none
    return bytes(fs.cat_file(key, **({"max_concurrency": 1} if is_split else {})))


def remove_objects(fs: Any, key: str) -> None:  # noqa: ANN401 - as above
    """Remove an object, or all that lie below a key.

    Args:
        fs: The fsspec file system.
        key: The key; ``*``, ``?`` and ``[`` in it are characters like all others.

    Raises:
        FileNotFoundError: If nothing lies there, unless the key has one of these.
    """
    if not set("*?[") & set(key):
        fs.rm(key, recursive=True)
        return
    # To rm(), this key is a pattern: it removes what others match, or nothing.
    for each in fs.find(key):
        fs.rm_file(each)


def list_objects(fs: Any, key: str) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    """List what lies directly below a key, in one request for each 1,000 entries.

    Args:
        fs: The fsspec file system.
        key: The key of a directory.

    Returns:
        The entries as fsspec's ``ls`` describes them: ``name``, ``type`` (``file`` or
        ``directory``), ``size`` and, of files on S3, ``LastModified`` and ``ETag``; none if nothing
        lies there.
    """
    if not is_s3(fs):
        try:
            found = fs.ls(key, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries = [{**entry, "name": str(entry["name"]).rstrip("/")} for entry in found]
        return [entry for entry in entries if entry["name"].strip("/") != key.strip("/")]
    bucket, _, path = key.strip("/").partition("/")
    prefix = f"{path}/" if path else ""
    return [
        entry
        for page in _pages(fs, bucket, prefix)
        for entry in _entries(page, bucket)
        if entry["name"] != f"{bucket}/{prefix}"  # in place of the directory, as consoles create it
    ]


def _pages(fs: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - as above
    more: dict[str, str] = {}
    while True:
        words = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", **more}
        page = fs.call_s3("list_objects_v2", **words)
        yield page
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _entries(page: dict[str, Any], bucket: str) -> Iterator[dict[str, Any]]:
    for item in page.get("Contents", ()):
        times = {"LastModified": item["LastModified"], "ETag": item.get("ETag")}
        yield {"name": f"{bucket}/{item['Key']}", "type": "file", "size": item["Size"], **times}
    for item in page.get("CommonPrefixes", ()):
        yield {"name": f"{bucket}/{item['Prefix'][:-1]}", "type": "directory", "size": 0}
