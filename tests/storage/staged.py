"""Helpers for tests of a run on remote storage and its staging directory."""

import time
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem

from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.removals import record_removal
from getiaction_launch.run.checkpoint import commit, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, remove

LIMIT_SECONDS = 30


def sync(run: Run) -> None:
    """Upload everything, as a node does when its workers have ended."""
    Mirror(run).close(LIMIT_SECONDS)


def names(directory: Path) -> list[str]:
    """List a directory."""
    return sorted(path.name for path in children(directory))


def append(path: Path, text: str) -> None:
    """Append to a file, as workers do to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def refuse_uploads(patch: pytest.MonkeyPatch, fs: AbstractFileSystem, error: Exception) -> None:
    """Have a file system refuse every file, but answer everything else."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    if "s3" not in fs.protocol:
        patch.setattr(fs, "put_file", refuse)
        return
    call = fs._call_s3

    async def call_s3(method: str, *words: object, **more: object) -> object:
        if method == "put_object":
            refuse()
        return await call(method, *words, **more)

    patch.setattr(fs, "_call_s3", call_s3)


def save(run: Run, step: int, content: str = "weights", attempt: int = 0) -> None:
    """Commit a checkpoint on this machine."""
    path = partial_path(run.local, 0, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    commit(
        run.local, attempt=attempt, fit=0, step=step, epoch=0, reason="period", saved_at=time.time()
    )


def discard(run: Run, path: str) -> None:
    """Remove a file or directory as a worker does for the user's callbacks."""
    place = run.local.directory / path
    remove(place)
    record_removal(run.local.directory, place)


def elsewhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "b") -> None:
    """Continue the run on another machine."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / name))
    run.make_log_directory(0)
