"""Uploads many small files to S3 side by side, without a thread for each.

A request costs as much CPU as all else that is done for such a file, and handing it from one thread
to another, and back, would add a third.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from getiaction_launch.mirror.uploading.parts import put
from getiaction_launch.storage.at_once import ROUND_TRIPS
from getiaction_launch.storage.paths import file_system, reaching


def put_all(
    directory: Path, bodies: Iterator[tuple[str, bytes]], done: Callable[[str], None]
) -> None:
    """Upload small files to S3, :data:`~getiaction_launch.storage.at_once.ROUND_TRIPS` at a time.

    Args:
        directory: URL of the directory that they belong to.
        bodies: Path of each file, relative to the directory, and its content. It is read from in
            another thread, as fast as the uploads go.
        done: Called in that thread with the path of each file that has been uploaded.

    Raises:
        StorageError: If an upload fails; no other one is begun then.
    """
    from fsspec.asyn import sync  # slow to import

    fs, root = file_system(directory)
    failed: list[tuple[str, Exception]] = []
    sync(fs.loop, _put_all, fs, root, bodies, done, failed)
    for path, error in failed[:1]:
        with reaching(directory / path):
            raise error


async def _put_all(
    fs: Any,  # noqa: ANN401 - fsspec has no types
    root: str,
    bodies: Iterator[tuple[str, bytes]],
    done: Callable[[str], None],
    failed: list[tuple[str, Exception]],
) -> None:
    import asyncio  # slow to import

    async def work() -> None:
        for path, content in bodies:
            try:
                await put(fs, f"{root}/{path}", content)
                done(path)
            except Exception as error:  # noqa: BLE001 - raised by the caller
                failed.append((path, error))
            if failed:
                return

    await asyncio.gather(*(work() for _ in range(ROUND_TRIPS)))
