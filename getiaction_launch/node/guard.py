"""Whether a run still belongs to the job that trains it: looked at while it trains.

Somebody may remove the directory of a run that is training, or resume the run elsewhere with
``resume --force``. The job must then end without writing anything more.
"""

import time
from pathlib import Path

from getiaction_launch.run.lease import is_of
from getiaction_launch.run.records import Cancel, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system, is_remote, remove

PERIOD_SECONDS = 2.0
REMOTE_PERIOD_SECONDS = 60.0
"""How often to look at remote storage; each look is two requests of every node."""
CONFIRM_SECONDS = 1.0


class RunLostError(Exception):
    """The run does not belong to this job any more; nothing may be written for it."""


class Guard:
    """Watches that a run's directory is there, and that ``job.json`` names the same job.

    One look that does not find ``plan.json`` proves little: file servers restart, and some stores
    answer "not found" when they fail. So two looks must agree.

    Args:
        run: The run that this process works for.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._period_seconds = REMOTE_PERIOD_SECONDS if is_remote(run.directory) else PERIOD_SECONDS
        self._look_at = time.monotonic() + self._period_seconds
        self._cancel_at = self._look_at
        self._suspicion: str | None = None
        self._loss: str | None = None
        self._is_cancelled = False
        self._job: JobRecord | None = None
        self._device: int | None = None
        self._inode: int | None = None
        self._is_recreated = False
        try:
            self._job = JobRecord.read(run)
            if not is_remote(run.directory):
                found = run.directory.stat()
                self._device, self._inode = found.st_dev, found.st_ino
        except (OSError, ValueError):
            pass  # then it can only be judged by its plan

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has cancelled the run, perhaps from a machine that cannot signal it."""
        if not self._is_cancelled and time.monotonic() >= self._cancel_at:
            self._cancel_at = time.monotonic() + self._period_seconds
            self._is_cancelled = is_cancelled(self._run)
        return self._is_cancelled

    def loss(self) -> str | None:
        """Return why this job has lost the run; None if it has it. Cheap enough for a loop."""
        if self._loss is None and time.monotonic() >= self._look_at:
            seen, self._suspicion = self._suspicion, self._look()
            self._look_at = time.monotonic() + self._period_seconds
            if self._suspicion and self._suspicion == seen:
                self._loss = self._suspicion
        return self._loss

    def confirm_loss(self) -> str | None:
        """Return the same, by a look now; call it before the run's directory is written again."""
        if self._loss is None and (seen := self._look()):
            time.sleep(CONFIRM_SECONDS)
            self._loss = seen if self._look() == seen else None
        return self._loss

    @property
    def is_removed(self) -> bool:
        """Whether the run was lost because its directory was removed."""
        return self._loss == _REMOVED

    def remove_leftovers(self) -> None:
        """Remove what workers and uploads wrote after the run's directory was removed."""
        directory = self._run.directory
        if self.is_removed and (self._is_recreated or is_remote(directory)):
            names = {path.name for path in children(directory / "launch")}
            if not names & {"plan.json", "claim", "job.json"}:  # of a new run of that name
                remove(directory)

    def _look(self) -> str | None:
        try:
            if self._is_plan_gone():
                return _REMOVED
            record = JobRecord.read(self._run)
        except (OSError, ValueError):
            return None  # storage that fails says nothing
        if self._job is None or record is None or is_of(record, self._job):
            return None
        return f"job.json names another job, {record.job_id}"

    def _is_plan_gone(self) -> bool:
        launch = self._run.launch_directory
        if is_remote(launch):
            # Beware: a bucket that was deleted must not count, nor one that cannot be listed.
            if self._run.read("plan") is not None:
                return False
            names = {path.name for path in children(launch)}
            return "plan.json" not in names and self._is_bucket_there()
        try:
            (launch / "plan.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            # Where a file system was unmounted, an empty directory of another one is seen.
            if self._device is None or _device_of(launch) != self._device:
                return False
            directory = self._run.directory
            # A library that saves in the meantime makes the directories that it misses.
            is_other = not directory.exists() or directory.stat().st_ino != self._inode
            self._is_recreated = self._is_recreated or is_other
            return True
        return False

    def _is_bucket_there(self) -> bool:
        fs, key = file_system(self._run.directory)
        fs.ls(key.strip("/").partition("/")[0], detail=False)  # FileNotFoundError if it is not
        return True


def is_cancelled(run: Run) -> bool:
    """Return whether somebody has cancelled a run; not as long as its storage does not answer.

    Args:
        run: The run that this process works for.
    """
    try:
        return Cancel.read(run) is not None
    except ValueError:
        return True  # the record is there
    except OSError:
        return False


_REMOVED = "its directory was removed"


def _device_of(place: Path) -> int:
    """Return the device of the nearest directory that exists."""
    return next(path.stat().st_dev for path in (place, *place.parents) if path.exists())
