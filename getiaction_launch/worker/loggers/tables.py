"""The ``metrics.csv`` of a CSVLogger: its rows are counted and cut, and never lost half-way."""

import csv
import io
import os

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem


def read(path: str, filesystem: AbstractFileSystem) -> list[list[str]]:
    """Return the header and the rows of a file; empty if it does not exist.

    A row without its end was being written when the process was killed, and is left out.
    """
    try:
        with filesystem.open(path, "r", newline="") as file:
            text: str = file.read()
    except FileNotFoundError:
        return []
    return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))


def replace(path: str, filesystem: AbstractFileSystem, lines: list[list[str]]) -> None:
    """Replace a file in one step by this header and these rows."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    if not isinstance(filesystem, LocalFileSystem):  # a put to an object store is one step
        filesystem.pipe_file(path, text.getvalue().encode())
        return
    directory, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - as Lightning's own
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")  # noqa: PTH118 - as above
    with open(temporary, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - as above
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - as above
