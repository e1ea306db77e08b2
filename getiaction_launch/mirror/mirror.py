"""Uploads what workers write in a run's staging directory to the run's URL, while they train.

Lightning, TensorBoard and the user's own code only ever see a local directory, so none of them
waits for a network, and none needs to know how an object store differs from a disk. The mirror runs
in the node's process, which outlives a worker that is killed.

Nodes that share a machine share the staging directory too; the node that holds a lane's lock
uploads for all of them. Uploads are recorded next to the files, so after a crash the next mirror
continues where this one stopped.
"""

import signal
import threading
import time

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.ledger import POLL_SECONDS, locked
from getiaction_launch.mirror.transfer import say
from getiaction_launch.mirror.uploading.lanes import Checkpoints, Files
from getiaction_launch.run.run import Run
from getiaction_launch.storage.failures import describe
from getiaction_launch.system.stop import StopRequest

MAX_PAUSE_SECONDS = 60.0
ABANDON_SECONDS = 60.0


class Mirror:
    """Keeps a run's URL up to date with its staging directory.

    Args:
        run: The run to upload; its directory is a URL.
        period_seconds: Longest time until a change is uploaded; checkpoints do not wait for it.
        limit_seconds: How long uploads may fail until training is stopped.
        stop: Request that stops the node's workers; None if there are no workers.
    """

    def __init__(
        self,
        run: Run,
        *,
        period_seconds: float = 30,
        limit_seconds: float = 1800,
        stop: StopRequest | None = None,
    ) -> None:
        errors: dict[str, str] = {}
        checkpoints = Checkpoints(run)
        self._lanes = [
            _Lane(work, errors, period_seconds, limit_seconds, stop)
            for work in (Files(run, errors, checkpoints), checkpoints)
        ]

    def start(self) -> None:
        """Start uploading; files that an earlier mirror did not upload come first."""
        for lane in self._lanes:
            lane.thread.start()

    @property
    def refused(self) -> dict[str, str]:
        """Why a file cannot be uploaded, by its path relative to the staging directory."""
        return {p: why for lane in self._lanes for p, why in lane.work.files.refused.items()}

    def close(self, limit_seconds: float) -> None:
        """Upload everything that is left; call it when nothing writes any more.

        Args:
            limit_seconds: How long failed uploads are retried.

        Raises:
            StorageError: If a file could not be uploaded within the limit.
        """
        deadline = time.monotonic() + limit_seconds
        for lane in self._lanes:
            lane.closing.set()
        for lane in self._lanes:
            lane.finish(deadline)

    def abandon(self) -> None:
        """End without uploading what is left, since the run was removed or is another job's."""
        for lane in self._lanes:
            lane.closing.set()
        for lane in self._lanes:
            if lane.thread.ident is not None:
                lane.thread.join(ABANDON_SECONDS)


class _Lane:
    """A thread that uploads one kind of files, and retries with growing pauses."""

    def __init__(
        self,
        work: Files | Checkpoints,
        errors: dict[str, str],
        period_seconds: float,
        limit_seconds: float,
        stop: StopRequest | None,
    ) -> None:
        self.work, self._errors = work, errors
        self._period_seconds, self._limit_seconds, self._stop = period_seconds, limit_seconds, stop
        self._sync_at = 0.0
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._watch, name=f"mirror {work.name}", daemon=True)

    def _watch(self) -> None:
        failures, failing_since = 0, 0.0
        while not self.closing.wait(POLL_SECONDS):
            error = self._upload(is_last=False)
            if error is None:
                failures = 0
                self._errors.pop(self.work.name, None)
                continue
            now = time.monotonic()
            failing_since = failing_since if failures else now
            failures, seconds = failures + 1, now - failing_since
            self._errors[self.work.name] = describe(error)
            self._log_failure(error, seconds)
            if seconds > self._limit_seconds and self._stop:
                say("training is stopped, because uploads have failed for too long")
                self._stop.signal = self._stop.signal or signal.SIGTERM
            self.closing.wait(_pause_seconds(failures))

    def finish(self, deadline: float) -> None:
        """Upload what is left, once the thread has ended.

        Raises:
            StorageError: If a file could not be uploaded before the deadline.
        """
        if self.thread.ident is not None:
            self.thread.join(max(0, deadline - time.monotonic()))
        failures = 0
        while error := self._upload(is_last=True, wait_seconds=max(0, deadline - time.monotonic())):
            failures += 1
            self._log_failure(error, 0)
            if time.monotonic() + _pause_seconds(failures) >= deadline:
                raise StorageError(
                    f"could not upload all files to {self.work.run.directory}: {describe(error)}.",
                    f"They are still in {self.work.run.local.directory} on this machine.",
                ) from error
            time.sleep(_pause_seconds(failures))

    def _upload(self, *, is_last: bool, wait_seconds: float = 0) -> Exception | None:
        work = self.work
        try:
            with locked(work.run.local.directory, work.name, wait_seconds) as is_mine:
                if not is_mine:
                    return TimeoutError("an upload has not ended") if is_last else None
                if is_last or time.monotonic() >= self._sync_at:
                    work.sync(is_last=is_last)
                    self._sync_at = time.monotonic() + self._period_seconds
                else:
                    work.look()
        except Exception as error:  # noqa: BLE001 - logged, and retried
            return error
        return None

    def _log_failure(self, error: Exception, seconds: float) -> None:
        since = f" for {seconds:.0f} s" if seconds else ""
        say(f"{self.work.name} could not be uploaded{since}: {describe(error)}")


def _pause_seconds(failures: int) -> float:
    return min(2.0**failures, MAX_PAUSE_SECONDS)
