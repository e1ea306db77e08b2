"""The run's directory is the run: claim one, read and write its records, find and list them.

Every record has one writer: ``plan.json`` the command that submits; ``job.json`` whoever starts
the job; ``attempt_N.json`` and, when every worker has ended well, ``done.json`` the job;
``progress.json`` the worker of rank 0; ``error_rank_N.json`` the worker that failed, or its node;
``placement.json`` and ``ray.json`` the job, on Ray; ``cancel.json`` whoever cancels;
``job_end.json`` whoever first sees that the job has gone.
"""

import contextlib
import itertools
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from getiaction_launch.errors import CheckError, RunNotFoundError
from getiaction_launch.storage import read_json, write_json

SCHEMA_VERSION = 1
_VERSION = re.compile(r"version_(\d+)")


@dataclass(frozen=True)
class WorkerError:
    """Why a worker ended.

    Attributes:
        rank: The worker's.
        node_rank: The node's that it ran on.
        host: That node's host name.
        type: The exception's class name.
        message: Its text.
        traceback: Of the worker; empty where it could not speak.
        is_consequence: Whether it only tells that another worker has gone.
        failed_at: Seconds since the epoch.
    """

    rank: int
    node_rank: int
    host: str
    type: str
    message: str
    traceback: str = ""
    is_consequence: bool = False
    failed_at: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"rank {self.rank} on node {self.node_rank} ({self.host}): {self.summary}"

    @property
    def summary(self) -> str:
        """``ValueError: message``, as a traceback ends."""
        return f"{self.type}: {self.message}"


@dataclass(frozen=True)
class Run:
    """One experiment on storage: ``<root>/<name>/version_N``.

    Attributes:
        directory: The run's own directory, absolute.
    """

    directory: Path

    @classmethod
    def claim(cls, root: str, name: str) -> "Run":
        """Take the next free ``version_N`` under ``root/name``; no two callers get the same.

        Raises:
            CheckError: If no directory can be made there.
        """
        parent = Path(root, name)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            taken = [int(m[1]) for p in parent.iterdir() if (m := _VERSION.fullmatch(p.name))]
            for version in itertools.count(max(taken, default=-1) + 1):
                with contextlib.suppress(FileExistsError):
                    (parent / f"version_{version}").mkdir()
                    break
            run = cls(parent / f"version_{version}")
            run.launch_directory.mkdir()
        except OSError as error:
            raise CheckError(
                f"{str(parent)!r} cannot hold a run: {error.strerror}.", "--name another_name"
            ) from error
        return run

    @property
    def name(self) -> str:
        """``name/version_N``, as users type it."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def launch_directory(self) -> Path:
        """Where the launcher's own records lie."""
        return self.directory / "launch"

    def log_directory(self, attempt: int) -> Path:
        """Where the logs and error records of one attempt lie."""
        return self.launch_directory / "logs" / f"attempt_{attempt}"

    def read(self, record: str) -> dict[str, Any] | None:
        """Read ``launch/<record>.json``; None where it was not written (yet)."""
        return read_json(self.launch_directory / f"{record}.json")

    def write(self, record: str, content: dict[str, Any], *, durable: bool = True) -> None:
        """Write ``launch/<record>.json`` in one step; ``durable`` as in ``write_json``."""
        write_json(
            self.launch_directory / f"{record}.json",
            {"schema_version": SCHEMA_VERSION, **content},
            durable=durable,
        )

    def forget(self, record: str) -> None:
        """Remove ``launch/<record>.json``."""
        (self.launch_directory / f"{record}.json").unlink(missing_ok=True)

    def write_error(self, attempt: int, error: WorkerError) -> None:
        """Record why a worker of this attempt ended; the first word of a rank stands."""
        path = self.log_directory(attempt) / f"error_rank_{error.rank}.json"
        if not path.exists():
            write_json(path, asdict(error))

    def first_error(self, attempt: int) -> WorkerError | None:
        """The error that ended the attempt: the earliest that is no echo of another's."""
        paths = self.log_directory(attempt).glob("error_rank_*.json")
        errors = [WorkerError(**error) for path in paths if (error := read_json(path))]
        return min(errors, key=lambda e: (e.is_consequence, e.failed_at), default=None)

    def discard(self) -> None:
        """Give the claimed version back; only for a run in which nothing was trained."""
        shutil.rmtree(self.directory, ignore_errors=True)


def list_runs(root: str) -> list[Run]:
    """Every launched run under ``root``, the latest submitted first."""
    submitted: dict[Path, int] = {}
    for plan in Path(root).absolute().glob("*/version_*/launch/plan.json"):
        with contextlib.suppress(FileNotFoundError):  # a run that is discarded meanwhile
            submitted[plan] = plan.stat().st_mtime_ns
    latest_first = sorted(submitted, key=submitted.__getitem__, reverse=True)
    return [Run(plan.parent.parent) for plan in latest_first]


def find_run(reference: str, root: str) -> Run:
    """Find the run that a user names.

    Args:
        reference: Its directory, ``name/version_N`` under ``root``, or ``@last``.
        root: Where runs are looked for.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    if reference == "@last":
        runs = list_runs(root)
        if not runs:
            raise RunNotFoundError(
                f"there is no run under {root}.", "Name another root: --root PATH"
            )
        return runs[0]
    for directory in (Path(reference), Path(root, reference)):
        if (directory / "launch" / "plan.json").is_file():
            return Run(Path(os.path.abspath(directory)))  # noqa: PTH100 - links stay as typed
    names = ", ".join(run.name for run in list_runs(root)[:5])
    raise RunNotFoundError(
        f"{reference!r} is no run: neither a run's directory nor name/version_N under {root}.",
        f"The latest runs there: {names}." if names else "Name another root: --root PATH",
    )
