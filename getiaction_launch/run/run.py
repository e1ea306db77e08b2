"""The run's directory is the run: claim one, find one, list all, and reach its files.

What the files of ``launch/`` hold, and who writes each, stands in
:mod:`getiaction_launch.run.records`.
"""

import contextlib
import itertools
import os
import random
import re
import shutil
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from getiaction_launch.errors import CheckError, RunNotFoundError
from getiaction_launch.run.records import WorkerError, load
from getiaction_launch.storage.claim import create
from getiaction_launch.storage.paths import (
    children,
    is_remote,
    modified_at,
    open_path,
    reaching,
    read_json,
    remove,
    write_json,
)

SCHEMA_VERSION = 1
STAGING_VARIABLE = "GETIACTION_LAUNCH_STAGING_DIR"
STAGING_FIX = f"Name another directory: export {STAGING_VARIABLE}=/disk/of/yours"
ROUND_TRIPS = 16  # to a remote storage, at a time
_VERSION = re.compile(r"version_(\d+)")
_ERROR = re.compile(r"error_rank_\d+\.json")


@dataclass(frozen=True)
class Run:
    """One experiment on storage: ``<root>/<name>/version_N``.

    Attributes:
        directory: The run's own directory, absolute; or its URL, as :func:`open_path` opens it.
    """

    directory: Path

    @classmethod
    def at(cls, place: str) -> "Run":
        """The run at an absolute path or a URL."""
        return cls(open_path(place))

    @classmethod
    def claim(cls, root: str, name: str) -> "Run":
        """Take the next free ``version_N`` under ``root/name``; no two callers get the same.

        Raises:
            CheckError: If no directory can be made there.
        """
        parent = open_path(root) / name
        if is_remote(parent):
            return cls._claim_remote(parent)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for version in itertools.count(_first_free(parent)):
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

    @classmethod
    def _claim_remote(cls, parent: Path) -> "Run":
        # There are no directories to make: the version is of whoever creates a file in it.
        version = 0
        for losses in itertools.count(1):
            version = max(version, _first_free(parent))
            run = cls(parent / f"version_{version}")
            if create(run.launch_directory / "claim"):
                return run
            version += 1
            # All who have lost would meet again, and each time one of them would win.
            time.sleep(random.uniform(0, min(0.05 * 2**losses, 2)))  # noqa: S311 - no secret
        raise AssertionError("unreachable")

    @property
    def name(self) -> str:
        """``name/version_N``, as users type it."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def local(self) -> "Run":
        """Where the processes of this machine write: the run itself, or of a URL a staging copy.

        Its path is the same on every machine and in every attempt, since what Lightning saves
        names files by their paths. ``GETIACTION_LAUNCH_STAGING_DIR`` says where such copies lie.
        """
        if not is_remote(self.directory):
            return self
        import hashlib

        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()[:16]
        return Run(staging_root() / digest / self.name)

    @property
    def poll_seconds(self) -> float:
        """How often to look for a record of another process: storage counts, and bills, each."""
        return 1.0 if is_remote(self.directory) else 0.05

    @property
    def launch_directory(self) -> Path:
        """Where the launcher's own records lie."""
        return self.directory / "launch"

    def log_directory(self, attempt: int) -> Path:
        """Where the logs and error records of one attempt lie."""
        return self.launch_directory / "logs" / f"attempt_{attempt}"

    def make_log_directory(self, attempt: int) -> Path:
        """Make the directory for this machine's logs of an attempt; of a URL, in the staging copy.

        Raises:
            CheckError: If the place for such copies is not to be had.
        """
        if self.local is not self:
            _make_staging_root()
        directory = self.local.log_directory(attempt)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def read(self, record: str) -> dict[str, object] | None:
        """Read ``launch/<record>.json``; None where it was not written (yet)."""
        return read_json(self.launch_directory / f"{record}.json")

    def write(self, record: str, content: dict[str, object], *, durable: bool = True) -> None:
        """Write ``launch/<record>.json`` in one step; ``durable`` as in ``write_json``."""
        write_json(
            self.launch_directory / f"{record}.json",
            {"schema_version": SCHEMA_VERSION, **content},
            durable=durable,
        )

    def forget(self, record: str) -> None:
        """Remove ``launch/<record>.json``."""
        remove(self.launch_directory / f"{record}.json")

    def write_error(self, attempt: int, error: WorkerError) -> None:
        """Record why a worker of this attempt ended; the first word of a rank stands."""
        path = self.log_directory(attempt) / f"error_rank_{error.rank}.json"
        with reaching(path):
            if not path.exists():
                write_json(path, asdict(error))

    def first_error(self, attempt: int) -> WorkerError | None:
        """The error that ended the attempt: the earliest that is no echo of another's."""
        paths = [p for p in children(self.log_directory(attempt)) if _ERROR.fullmatch(p.name)]
        errors = [error for path in paths if (error := load(WorkerError, path))]
        return min(errors, key=lambda e: (e.is_consequence, e.failed_at), default=None)

    def discard(self) -> None:
        """Give the claimed version back; only for a run in which nothing was trained."""
        if is_remote(self.directory):
            remove(self.directory)
        shutil.rmtree(self.local.directory, ignore_errors=True)


def staging_root() -> Path:
    """Where the local copies of runs lie whose directory is a URL."""
    # Not the system's temporary directory: schedulers give each job another one.
    default = f"/tmp/getiaction-launch-{os.getuid()}"  # noqa: S108 - made for its owner alone
    return Path(os.environ.get(STAGING_VARIABLE, default)).absolute()


def _make_staging_root() -> None:
    root = staging_root()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = root.stat(follow_symlinks=False)
        if told.st_uid != os.getuid() or not stat.S_ISDIR(told.st_mode):
            raise CheckError(
                f"{root}, where runs lie until they are uploaded, is another user's.", STAGING_FIX
            )
    except OSError as error:
        raise CheckError(
            f"{root}, where runs lie until they are uploaded: {error.strerror}.", STAGING_FIX
        ) from error


def _first_free(parent: Path) -> int:
    taken = [int(m[1]) for p in children(parent) if (m := _VERSION.fullmatch(p.name))]
    return max(taken, default=-1) + 1


def list_runs(root: str) -> list[Run]:
    """Every launched run under ``root``, the latest submitted first."""
    place = open_path(root)
    submitted: dict[Path, float] = {}

    def look(plan: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # no launched run, or discarded meanwhile
            submitted[plan] = modified_at(plan)

    if is_remote(place):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(ROUND_TRIPS) as pool:
            found = [v for versions in pool.map(children, children(place)) for v in versions]
            plans = [v / "launch/plan.json" for v in found if _VERSION.fullmatch(v.name)]
            list(pool.map(look, plans))
    else:
        for plan in place.absolute().glob("*/version_*/launch/plan.json"):
            look(plan)
    latest_first = sorted(submitted, key=submitted.__getitem__, reverse=True)
    return [Run(plan.parent.parent) for plan in latest_first]


def find_run(reference: str, root: str) -> Run:
    """Find the run that a user names.

    Args:
        reference: Its directory or URL, ``name/version_N`` under ``root``, or ``@last``.
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
    here = [] if "://" in reference else [open_path(root) / reference]
    for directory in [open_path(reference), *here]:
        plan = directory / "launch" / "plan.json"
        with reaching(plan):
            if plan.is_file():
                if is_remote(directory):
                    return Run(directory)
                return Run(Path(os.path.abspath(directory)))  # noqa: PTH100 - links stay as typed
    names = ", ".join(run.name for run in list_runs(root)[:5])
    raise RunNotFoundError(
        f"{reference!r} is no run: neither a run's directory nor name/version_N under {root}.",
        f"The latest runs there: {names}." if names else "Name another root: --root PATH",
    )
