"""Reads the copy of a run's code, to show how two runs differ; nothing is unpacked."""

import os
import tarfile
import tempfile
from pathlib import Path

from getiaction_launch.mirror.transfer import download, hash_of
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote, kind_of
from getiaction_launch.storage.untrusted import open_regular

LIMIT_BYTES = 200_000_000
"""Most bytes of code that are read of one run."""


def read_code(run: Run, plan: Plan) -> dict[str, bytes]:
    """Read the files of the copy of a run's code.

    Args:
        run: The run, beside whose root the copy is looked for.
        plan: The plan of this run.

    Returns:
        The content of each file, by its path.

    Raises:
        ValueError: If there is no copy, or it is not what the plan says; the message says why.
        StorageError: If remote storage does not answer.
    """
    root = run.directory.parents[1]
    if plan.code is None or plan.code.archive is None:
        raise ValueError("its code was not copied at submission")
    place = root / plan.code.archive
    if kind_of(place) != "file":
        raise ValueError("the copy of its code is not there any more")
    if is_remote(place):
        with tempfile.TemporaryDirectory() as folder:
            arrived = Path(folder, "code.tar.gz")
            download(place, arrived)
            return _read(arrived, plan.code.digest)
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root)):
        raise ValueError("a link leads to the copy of its code")
    return _read(place, plan.code.digest)


def _read(archive: Path, digest: str) -> dict[str, bytes]:
    if hash_of(archive) != digest:
        raise ValueError("the copy of its code is damaged")
    files: dict[str, bytes] = {}
    left_bytes = LIMIT_BYTES
    try:
        with open_regular(archive) as opened, tarfile.open(fileobj=opened, mode="r:gz") as entries:
            for entry in entries:
                left_bytes -= entry.size
                if left_bytes < 0:
                    raise ValueError("the copy of its code is too large to be compared")
                if content := entries.extractfile(entry) if entry.isreg() else None:
                    files[entry.name] = content.read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"the copy of its code cannot be read: {error}") from error
    return files
