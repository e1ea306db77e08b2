"""The queue of a sweep on this machine: one process, which starts the job of each run in its turn.

``python -m getiaction_launch.backends.queue FIRST_RUN`` reads from its standard input which runs
there are, and how to start them. It writes a ``job.json`` into each, which says that the run waits
and names this process. A job that it starts is a detached process like that of any other run: it
replaces that ``job.json`` by its own, and does not need the queue any more. So if the queue is
killed, the runs that train continue, and those that wait have FAILED and can be resumed.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from getiaction_launch.backends.queue_lease import holding_lease_of_queue, remove_left_leases
from getiaction_launch.backends.starting import (
    command_of,
    is_waiting,
    job_log,
    start_process,
    write_job,
)
from getiaction_launch.errors import LaunchError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.lease import is_of
from getiaction_launch.run.records import BackendRecord, Cancel, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.detached import start_detached
from getiaction_launch.system.stop import StopRequest

POLL_SECONDS = 0.2
MOST_PAUSE_SECONDS = 60.0
"""How long to wait at most until a run is tried again whose storage has failed."""


def start_jobs(
    runs: Sequence[Run], backend: BackendRecord, module: str, words: Sequence[str], at_once: int
) -> None:
    """Start the job process of a run, or for several runs a queue, and wait for each ``job.json``.

    Args:
        runs: The runs, in the order in which they are started.
        backend: The backend that submits them.
        module: Import path of the module that is the job process of a run.
        words: Arguments of a job process behind the run's directory. If a queue has started it, the
            id of the job in the ``job.json`` that it must replace follows them.
        at_once: How many of the runs may run at the same time.

    Raises:
        CheckError: If the process ends before that.
    """
    if len(runs) == 1:
        start_process(runs[0], module, words)
        return
    order = {
        "runs": [str(run.directory) for run in runs],
        "backend": asdict(backend),
        "command": [module, *words],
        "at_once": at_once,
    }
    start_process(runs[0], "getiaction_launch.backends.queue", [], dumps(order))


class Queue:
    """Runs that wait for their turn, and the jobs that were started.

    Args:
        runs: The runs, in the order in which they are started.
        backend: The backend that has submitted them.
        command: Import path of the module that is a run's job process, and its arguments.
        at_once: How many of the runs may run at the same time.

    Attributes:
        waiting: The runs that wait.
        name: How the queue is known: the directory of its first run, in its command line.
        job_id: The id of this process in the ``job.json`` of each run that waits.
    """

    def __init__(
        self, runs: Sequence[Run], backend: BackendRecord, command: Sequence[str], at_once: int
    ) -> None:
        self.waiting = list(runs)
        self._backend, self._at_once = backend, at_once
        self._module, *self._words = command
        self._jobs: dict[Run, subprocess.Popen[bytes]] = {}
        self._pause_seconds = self._retry_at = 0.0
        self._told: set[Run] = set()
        self.name = str(runs[0].directory)
        first, *others = runs
        self._own = dict(zip(others, for_each(self._enter, others, first.directory), strict=True))
        # Last: the command that has started this process waits for it.
        self._own[first] = self._enter(first)
        self.job_id = self._own[first].job_id

    def _enter(self, run: Run) -> JobRecord:
        return write_job(run, self._backend, queue=self.name, side_by_side=self._at_once)

    @property
    def is_over(self) -> bool:
        """Whether no run waits, and no job runs."""
        return not self.waiting and not self._jobs

    def advance(self) -> None:
        """Look which jobs have ended, and start others until so many run as may."""
        for run, job in list(self._jobs.items()):
            if job.poll() is not None:
                del self._jobs[run]
                self._note_failure(run, job.pid)
        if time.monotonic() < self._retry_at:
            return
        while self.waiting and len(self._jobs) < self._at_once:
            run = self.waiting.pop(0)
            try:
                self._start(run)
            except OSError as error:
                self.waiting.append(run)  # its storage may answer later; the others come first
                self._pause(run, error)
                break
            except (ValueError, LaunchError) as error:
                _log(run, f"{run.name} cannot be started: {error}")
                self._note_failure(run)
            self._pause_seconds = 0.0

    def _pause(self, run: Run, error: OSError) -> None:
        """Start nothing for a while: the longer, the more runs in a row could not be started."""
        self._pause_seconds = min(2 * self._pause_seconds or POLL_SECONDS, MOST_PAUSE_SECONDS)
        self._retry_at = time.monotonic() + self._pause_seconds
        if run not in self._told:
            self._told.add(run)
            _log(run, f"{run.name} cannot be started yet, and is retried: {error}")

    def _start(self, run: Run) -> None:
        if not self.has(run) or Cancel.read(run) or run.read("plan") is None:
            return
        command = command_of(run, self._module, [*self._words, self._own[run].job_id])
        self._jobs[run] = start_detached(command, job_log(run))

    def has(self, run: Run) -> bool:
        """Return whether a run still waits in this queue, by its ``job.json``."""
        record = JobRecord.read(run)
        return is_of(record, self._own[run]) and record is not None and is_waiting(record)

    def _note_failure(self, run: Run, pid: int | None = None) -> None:
        """Record a job that has ended before it could write its own ``job.json``.

        Args:
            run: The run that the job was started for.
            pid: Id of the job's process; None if it could not be started.
        """
        with contextlib.suppress(OSError, ValueError):
            if self.has(run) and not Cancel.read(run):
                write_job(run, self._backend, pid=pid, has_ended=True, side_by_side=self._at_once)


def _log(run: Run, text: str) -> None:
    """Write a line into the log of a run's job; if that fails, into that of the queue."""
    line = " ".join(text.split())  # status shows the last one
    try:
        with job_log(run).open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")
    except (OSError, ValueError, LaunchError):
        sys.stderr.write(f"{line}\n")


def is_next(run: Run, job_id: str) -> bool:
    """Whether a job process that a queue has started may be the job of its run.

    Args:
        run: The run that the process was started for.
        job_id: The id in the ``job.json`` that the queue has written.
    """
    record = JobRecord.read(run)
    return record is not None and record.job_id == job_id and is_waiting(record)


def main() -> None:
    """Be the process of a queue, until its last job has ended."""
    stop = StopRequest()
    order = json.load(sys.stdin)
    backend = read_dataclass(BackendRecord, order["backend"], "standard input")
    runs = [Run.at(place) for place in order["runs"]]
    queue = Queue(runs, backend, order["command"], order["at_once"])
    with holding_lease_of_queue(queue.name, queue.job_id, runs, queue.has):
        while not queue.is_over and stop.signal is None:
            queue.advance()
            time.sleep(POLL_SECONDS)
    if stop.signal is None:
        remove_left_leases(runs[0].directory.parents[1])


if __name__ == "__main__":
    main()
