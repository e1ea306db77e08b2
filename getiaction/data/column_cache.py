"""The rows of a large dataset in files of the cache, of which a node has one copy in memory.

Each rank and each of its loader processes reads the same rows. Arrays that are mapped from a file
take memory once per node, whichever way the processes were started, and the next start needs no
conversion. A file is found by the contents that it was made of, so it is never out of date.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_warn

from getiaction.data.cache_lock import waiting_for_others
from getiaction.data.column_eviction import DEFAULT_GB, VARIABLE, evict, hold
from getiaction.data.columns import Column, load_columns
from getiaction.data.errors import DatasetError
from getiaction.data.file_hashes import for_each, hash_files
from getiaction.data.machine import limit_bytes
from getiaction.data.source import cache_dir

# Increase this when the same files make other columns.
FORMAT = 1
# Below this size of the data files, a copy per process costs less than the files of a cache.
MIN_BYTES = 32 * 2**20
# This share of the disk stays free for checkpoints, up to a limit.
RESERVED_SHARE, MAX_RESERVED_BYTES = 0.05, 20 * 10**9
UNFINISHED_FOR_SECONDS = 24 * 3600
# Another process may remove an entry just before it is mapped.
MAX_TRIES = 3


class MappedColumns(dict[str, Column]):
    """Columns that are mapped from a folder of the cache; a pickle has only the folder.

    Args:
        folder: Folder that `open_columns` has written.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hold(folder)
        keys = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
        super().__init__({key: _map(folder, number) for number, key in enumerate(keys)})

    def __reduce__(self) -> tuple[type["MappedColumns"], tuple[Path]]:
        return MappedColumns, (self.folder,)


def open_columns(
    files: Sequence[Path], features: dict[str, dict[str, Any]], episodes: Sequence[int] | None
) -> Mapping[str, Column]:
    """Map the columns of large data files from the cache, after writing them if they are not there.

    If several processes open a dataset at the same time, one writes and the others wait, for half
    an hour at most: after that, each writes columns of its own, and the first ones count. If the
    cache cannot be written, a warning says so and the columns are in this process's memory.

    Args:
        files: Argument of `load_columns` of that name.
        features: Argument of `load_columns` of that name.
        episodes: Argument of `load_columns` of that name.

    Returns:
        What `load_columns` returns; arrays may be read-only.

    Raises:
        DatasetError: As `load_columns` raises it, or `GETIACTION_COLUMNS_GB` is not a number.
    """
    load = cache(lambda: load_columns(files, features, episodes))
    if sum(for_each(_size, files)) < MIN_BYTES:
        return load()
    try:
        folder = cache_dir() / "columns" / _key(files, features, episodes)
    except OSError:  # reading the file says what is wrong with it
        return load()
    try:
        return _mapped(folder, load)
    except DatasetError:  # of the data files, which is a ValueError
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        rank_zero_warn(
            f"The rows in {files[0].parent} take memory in each process, because the cache "
            f"{folder} cannot be used ({error}). Set GETIACTION_CACHE to a folder that has "
            "room, or remove that one if it is damaged"
        )
    return load()


def _mapped(folder: Path, load: Callable[[], Mapping[str, Column]]) -> MappedColumns:
    limit = limit_bytes(VARIABLE, DEFAULT_GB)
    for _ in range(MAX_TRIES):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with waiting_for_others(folder, f"writes rows to {folder}", folder.is_dir):
                _remove_unfinished(folder.parent)
                if not folder.is_dir():
                    _write(load(), folder)
                    evict(folder, limit)
        try:
            return MappedColumns(folder)
        except FileNotFoundError:
            if folder.is_dir():
                raise
    msg = "other processes remove it again and again"
    raise OSError(msg)


def _key(
    files: Sequence[Path], features: dict[str, dict[str, Any]], episodes: Sequence[int] | None
) -> str:
    """Hash all that the columns depend on."""
    contents = hash_files(files, cache_dir() / "hashes")
    kinds = [(key, each["dtype"], list(each["shape"])) for key, each in features.items()]
    chosen = None if episodes is None else sorted(episodes)
    facts = json.dumps([FORMAT, kinds, chosen, contents], allow_nan=False)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed has left.

    On some file systems a lock does not reach other nodes, so one of them may be at work on what is
    new.
    """
    oldest = time.time() - UNFINISHED_FOR_SECONDS
    for unfinished in folder.glob(".*.*"):
        with suppress(OSError):  # another process removes it, too
            if unfinished.stat().st_mtime < oldest:
                shutil.rmtree(unfinished, ignore_errors=True)


def _write(columns: Mapping[str, Column], folder: Path) -> None:
    """Write columns to a folder, which appears when it is complete."""
    size = sum(column.nbytes for column in columns.values())
    disk = shutil.disk_usage(folder.parent)
    reserved = min(RESERVED_SHARE * disk.total, MAX_RESERVED_BYTES)
    if size + reserved > disk.free:
        msg = (
            f"{size / 1e9:.1f} GB are needed, and {disk.free / 1e9:.1f} GB free, of which "
            f"{reserved / 1e9:.1f} GB are kept for checkpoints"
        )
        raise OSError(msg)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir()
        for number, column in enumerate(columns.values()):
            _save(column, unfinished, number)
        keys = json.dumps(list(columns), allow_nan=False)
        (unfinished / "keys.json").write_text(keys, encoding="utf-8")
        for file in unfinished.iterdir():
            _sync(file)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _save(column: Column, folder: Path, number: int) -> None:
    if isinstance(column, np.ndarray):
        np.save(folder / f"{number}.npy", column)
        return
    table = pa.table({"column": column})
    with (
        pa.OSFile(str(folder / f"{number}.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _map(folder: Path, number: int) -> Column:
    array = folder / f"{number}.npy"
    if array.exists():
        # As a plain array, which is indexed faster; it keeps the file mapped.
        return np.asarray(np.load(array, mmap_mode="r"))
    with pa.memory_map(str(array.with_suffix(".arrow"))) as file:
        return pa.ipc.open_file(file).read_all()["column"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
