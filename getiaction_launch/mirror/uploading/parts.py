"""Uploads one file to S3, which is read once: in one request, or in parts side by side.

s3fs uploads parts, too, but waits for all that are under way before it reads the next ones, holds
each of them up to three times, and leaves hashing to a second read of the file. Here the next part
is read as soon as there is room for it, and hashed on the way.
"""

import contextlib
import hashlib
import io
import mimetypes
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, Protocol

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.uploading.room import Room

PART_BYTES = 16 << 20
"""Size of the parts of a large file, unless there would be too many."""
WANTED_PARTS = 9_000
"""How many parts of that size a file may have; larger ones have larger parts."""
MAX_PART_BYTES = 5 << 30
MAX_OBJECT_BYTES = 5 << 40
"""What S3 allows: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
PARALLEL_PARTS = 10
TRIES = 3
PAUSE_SECONDS = 1.0
ROOM = Room(PARALLEL_PARTS * PART_BYTES)
"""For all uploads of this process."""


class Digest(Protocol):
    """A hash that is being computed, as those of hashlib."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes to what is hashed."""


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts in which to upload a file to S3, in bytes.

    Args:
        size_bytes: Size of the file in bytes.

    Raises:
        ValueError: If S3 takes no file of that size.
    """
    if size_bytes > MAX_OBJECT_BYTES:
        raise ValueError(
            f"it has {size_bytes / 2**40:.1f} TiB, and S3 takes files of up to 5 TiB; write it in "
            "several files, as sharded strategies do"
        )
    # Fewer parts than allowed: the file may still grow.
    whole_mib = -(-size_bytes // WANTED_PARTS // 2**20) * 2**20
    return min(max(PART_BYTES, whole_mib), MAX_PART_BYTES)


def send(fs: Any, key: str, file: IO[bytes], size_bytes: int, digest: Digest | None) -> int:  # noqa: ANN401 - fsspec has no types
    """Upload a file to S3, complete or not at all.

    Args:
        fs: The S3 file system of fsspec.
        key: Bucket and key of the object.
        file: The file, open at its start.
        size_bytes: Size of the file in bytes; what it has grown by is uploaded, too.
        digest: Updated with exactly the bytes that are uploaded; None if nobody needs their hash.

    Returns:
        How many bytes were uploaded, and are there.

    Raises:
        ValueError: If S3 takes no file of that size.
        StorageError: If the object has another size than what was sent.
        Exception: Whatever the client raises if the upload fails; no parts are left then.
    """
    from fsspec.asyn import sync  # slow to import

    wanted_bytes = part_bytes(size_bytes)
    bucket, _, name = key.strip("/").partition("/")
    where = {"Bucket": bucket, "Key": name}
    if size_bytes <= wanted_bytes:
        # Twice: the client holds a copy of what it sends.
        with ROOM.holding(2 * size_bytes):
            content = file.read(wanted_bytes)
            if digest:
                digest.update(content)
            sync(fs.loop, put, fs, key, content)
        return len(content)
    upload = fs.call_s3("create_multipart_upload", **where, **_kind_of(name))
    where |= {"UploadId": upload["UploadId"]}
    sent_bytes = _send_parts(fs, where, file, wanted_bytes, digest)
    if (have := int(fs.info(key)["size"])) != sent_bytes:
        raise StorageError(f"{key} has only {have} of {sent_bytes} bytes.")
    return sent_bytes


async def put(fs: Any, key: str, content: bytes) -> None:  # noqa: ANN401 - as above
    """Upload one object to S3 in one request, in the event loop of its file system.

    Args:
        fs: The S3 file system of fsspec.
        key: Bucket and key of the object.
        content: What the object shall hold.

    Raises:
        StorageError: If the object has another size.
        Exception: Whatever the client raises if the upload fails.
    """
    bucket, _, name = key.strip("/").partition("/")
    answer = await fs._call_s3(  # noqa: SLF001 - call_s3() of an event loop
        "put_object", Bucket=bucket, Key=name, Body=content, **_kind_of(name)
    )
    # Of most objects, the answer is the hash of what has arrived.
    etag = str(answer.get("ETag", "")).strip('"')
    if etag != hashlib.md5(content, usedforsecurity=False).hexdigest():
        found = await fs._info(key)  # noqa: SLF001 - info() of an event loop
        if found["size"] != len(content):
            raise StorageError(f"{key} has only {found['size']} of {len(content)} bytes.")


def _kind_of(name: str) -> dict[str, str]:
    kind, _ = mimetypes.guess_type(name)
    return {"ContentType": kind} if kind else {}


def _send_parts(
    fs: Any,  # noqa: ANN401 - as above
    where: dict[str, str],
    file: IO[bytes],
    wanted_bytes: int,
    digest: Digest | None,
) -> int:
    from concurrent.futures import Future, ThreadPoolExecutor  # slow to import

    sent_bytes, sending = 0, list[Future[str]]()
    has_failed = threading.Event()

    def send_part(number: int, part: io.BytesIO, room_bytes: int) -> str:
        try:
            with _setting_if_failed(has_failed):
                return "" if has_failed.is_set() else _send_part(fs, where, number, part)
        finally:
            ROOM.give_back(room_bytes)

    try:
        # Left only when no part is under way: one that arrives after the upload was aborted stays.
        with ThreadPoolExecutor(PARALLEL_PARTS) as pool, _setting_if_failed(has_failed):
            while not has_failed.is_set():
                ROOM.take(wanted_bytes)
                try:
                    # Nothing else may hold these bytes, or the client copies them.
                    part = io.BytesIO(file.read(wanted_bytes))
                except BaseException:  # a disk that fails
                    ROOM.give_back(wanted_bytes)
                    raise
                content = part.getbuffer()
                if not content:
                    ROOM.give_back(wanted_bytes)
                    break
                sending.append(pool.submit(send_part, len(sending) + 1, part, wanted_bytes))
                sent_bytes += len(content)
                if digest:  # while the part is being sent
                    digest.update(content)
                del part, content  # or the memory stays until the next part has been read
        etags = [future.result() for future in sending]
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        fs.call_s3("complete_multipart_upload", MultipartUpload={"Parts": parts}, **where)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error says more
            fs.call_s3("abort_multipart_upload", **where)
        raise
    return sent_bytes


@contextlib.contextmanager
def _setting_if_failed(has_failed: threading.Event) -> Iterator[None]:
    try:
        yield
    except BaseException:
        has_failed.set()
        raise


def _send_part(fs: Any, where: dict[str, str], number: int, part: io.BytesIO) -> str:  # noqa: ANN401 - as above
    """Upload one part, retry if that fails, and return its ETag."""
    from fsspec.asyn import sync  # slow to import

    tries = 1
    while True:
        try:
            return str(sync(fs.loop, _request, fs, where, number, part)["ETag"])
        except Exception:
            if tries == TRIES:
                raise
        tries += 1
        time.sleep(PAUSE_SECONDS)


async def _request(fs: Any, where: dict[str, str], number: int, part: io.BytesIO) -> Any:  # noqa: ANN401 - as above
    # Not call_s3(): its retries would continue behind the part, where the first try has read to.
    part.seek(0)
    client = await fs.get_s3(where["Bucket"])
    words = fs._get_s3_method_kwargs(client.upload_part, PartNumber=number, Body=part, **where)  # noqa: SLF001 - keys of encryption
    return await client.upload_part(**words)
