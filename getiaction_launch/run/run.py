"""A run is its directory: claim a new one, and reach its files.

:mod:`getiaction_launch.run.records` describes the files of ``launch/`` and who writes each.
"""

import contextlib
import itertools
import os
import random
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from getiaction_launch.errors import FAILING, CheckError, RecordError
from getiaction_launch.plan.secrets import holds_private
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.records import load
from getiaction_launch.storage.claim import create
from getiaction_launch.storage.paths import (
    children,
    is_remote,
    kind_of,
    open_path,
    read_json,
    remove,
    write_json,
)
from getiaction_launch.storage.private import why_not_private

SCHEMA_VERSION = 1
REMOVING = "removing"
"""Record that says that a run had ended when its removal began."""
STAGING_VARIABLE = "GETIACTION_LAUNCH_STAGING_DIR"
CODE_VARIABLE = "GETIACTION_LAUNCH_CODE"
"""Environment variable of a worker: the directory of the copy of the user's code on its node."""
STAGING_FIX = f"Choose another directory: export {STAGING_VARIABLE}=/disk/of/yours"
_VERSION = re.compile(r"version_(\d+)")
_ERROR = re.compile(r"error_rank_\d+\.json")


@dataclass(frozen=True)
class Run:
    """One experiment on storage: ``<root>/<name>/version_N``.

    Attributes:
        directory: Absolute path of the run's directory, or its URL as opened by
            :func:`~getiaction_launch.storage.paths.open_path`.
    """

    directory: Path

    @classmethod
    def at(cls, place: str) -> "Run":
        """Return the run at an absolute path or a URL."""
        return cls(open_path(place))

    @classmethod
    def claim(cls, root: str, name: str, after: "Run | None" = None) -> "Run":
        """Create the next free ``version_N`` under ``root/name``; no two callers get the same.

        Args:
            root: Absolute path or URL of the directory for all runs.
            name: Name of the run, without a version.
            after: A run that this process has just claimed. If it has the same name, the versions
                behind it are tried without a look at which are taken.

        Raises:
            CheckError: If the directory cannot be created.
            OSError: If the disk is full or fails.
            StorageError: If remote storage does not answer.
        """
        parent = open_path(root) / name
        if is_remote(parent):
            return cls._claim_remote(parent, after)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for version in itertools.count(_first_free(parent, after)):
                with contextlib.suppress(FileExistsError):
                    (parent / f"version_{version}").mkdir()
                    break
            run = cls(parent / f"version_{version}")
            run.launch_directory.mkdir()
        except OSError as error:
            if error.errno in FAILING:
                raise
            raise CheckError(
                f"a run cannot be created in {str(parent)!r}: {error.strerror}.",
                "Choose another name: --name another_name",
            ) from error
        return run

    @classmethod
    def _claim_remote(cls, parent: Path, after: "Run | None") -> "Run":
        # Object stores have no directories: the version belongs to the one who creates this file.
        version = _first_free(parent, after)
        for losses in itertools.count(1):
            run = cls(parent / f"version_{version}")
            if create(run.launch_directory / "claim"):
                return run
            # Without a random delay, all who lost would try the next version at the same moment.
            time.sleep(random.uniform(0, min(0.05 * 2**losses, 2)))  # noqa: S311 - no secret
            version = max(version + 1, _first_free(parent))
        raise AssertionError("unreachable")

    @property
    def name(self) -> str:
        """Name of the run as users type it: ``name/version_N``."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def local(self) -> "Run":
        """The run that this machine's processes write to: itself or, for a URL, a staging copy.

        The path of the copy is the same on every machine and in every attempt, since Lightning
        saves paths of files. ``GETIACTION_LAUNCH_STAGING_DIR`` names the directory of all copies.
        """
        if not is_remote(self.directory):
            return self
        import hashlib

        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()[:16]
        return Run(staging_root() / digest / self.name)

    @property
    def poll_seconds(self) -> float:
        """How often to look for another process's record, in seconds.

        Less often on remote storage, where each request has a price.
        """
        return 1.0 if is_remote(self.directory) else 0.05

    @property
    def launch_directory(self) -> Path:
        """Directory of the launcher's own records."""
        return self.directory / "launch"

    def log_directory(self, attempt: int) -> Path:
        """Return the directory of an attempt's logs and error records."""
        return self.launch_directory / "logs" / f"attempt_{attempt}"

    def make_log_directory(self, attempt: int) -> Path:
        """Create the directory for this machine's logs of an attempt.

        If the run lies on remote storage, this is in its staging copy.

        Raises:
            CheckError: If the directory for staging copies cannot be created, or other users can
                write to it.
        """
        if self.local is not self:
            _make_staging(self)
        directory = self.local.log_directory(attempt)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def read(self, record: str) -> dict[str, object] | None:
        """Read ``launch/<record>.json``; None if it does not exist (yet)."""
        return read_json(self.launch_directory / f"{record}.json")

    def write(self, record: str, content: dict[str, object], *, durable: bool = True) -> None:
        """Replace ``launch/<record>.json`` atomically.

        Args:
            record: Name of the file without its suffix.
            content: What the file shall contain.
            durable: Whether it must survive a power failure, which takes a wait for the disk.
        """
        write_json(
            self.launch_directory / f"{record}.json",
            {"schema_version": SCHEMA_VERSION, **content},
            durable=durable,
            is_private=holds_private(content),
        )

    def attempt_numbers(self) -> Iterable[int]:
        """Return the numbers of attempts, of which the first one that has not begun is the end."""
        return itertools.count()

    def forget(self, record: str) -> None:
        """Remove ``launch/<record>.json``."""
        remove(self.launch_directory / f"{record}.json")

    def write_error(self, attempt: int, error: WorkerError) -> None:
        """Record why a worker of this attempt failed, unless its rank has a record already."""
        path = self.log_directory(attempt) / f"error_rank_{error.rank}.json"
        if kind_of(path) is None:
            write_json(path, asdict(error))

    def error_files(self, attempt: int) -> list[Path]:
        """Return the files in which workers of the attempt have recorded why they failed."""
        found = [p for p in children(self.log_directory(attempt)) if _ERROR.fullmatch(p.name)]
        if not found and self.local is not self:  # they could not be uploaded
            with contextlib.suppress(CheckError, RecordError):
                check_staging(self)
                return self.local.error_files(attempt)
        return found

    def first_error(self, attempt: int) -> WorkerError | None:
        """Return the error that ended the attempt; None if no worker has recorded one.

        It is the earliest one that is not a consequence of another worker's failure.
        """
        errors = [e for path in self.error_files(attempt) if (e := load(WorkerError, path))]
        return min(errors, key=lambda e: (e.is_consequence, e.failed_at), default=None)

    def discard(self) -> None:
        """Delete the run's directory; only for a run that has not trained anything."""
        if is_remote(self.directory):
            remove(self.directory)
        shutil.rmtree(self.local.directory, ignore_errors=True)


def staging_root() -> Path:
    """Return the directory of this machine's staging copies, for runs on remote storage."""
    # Not the system's temporary directory: schedulers give each job another one.
    default = f"/tmp/getiaction-launch-{os.getuid()}"  # noqa: S108 - only its owner has access
    return Path(os.environ.get(STAGING_VARIABLE, default)).absolute()


def check_staging(run: Run) -> None:
    """Check that nobody else can have written to this machine's copy of a run, if there is one.

    Raises:
        CheckError: If another user has made it first, or may write to it.
    """
    if run.local is run:
        return
    _check_private(staging_root())
    _check_private(run.local.directory.parents[1])


def _check_private(directory: Path) -> None:
    if os.path.lexists(directory) and (reason := why_not_private(directory)):
        raise CheckError(f"the staging directory cannot be used: {reason}.", STAGING_FIX)


def _make_staging(run: Run) -> None:
    for directory in (staging_root(), run.local.directory.parents[1]):
        make_private(directory)


def make_private(directory: Path) -> None:
    """Create a directory that nobody else can write to, for staging, unless it exists.

    Raises:
        CheckError: If it cannot be created, or other users can write to it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CheckError(
            f"the staging directory {directory} cannot be created: {error.strerror}.",
            STAGING_FIX,
        ) from error
    _check_private(directory)


def _first_free(parent: Path, after: Run | None = None) -> int:
    if after and after.directory.parent == parent:
        return int(after.directory.name.removeprefix("version_")) + 1
    taken = [int(m[1]) for p in children(parent) if (m := _VERSION.fullmatch(p.name))]
    return max(taken, default=-1) + 1
