"""Serves a spool directory: starts each job's command once for every node, and ends it.

``python spool_server.py DIRECTORY``. A job is a folder with ``job.json`` and ``state``; ``cancel``,
``preempt`` and ``requeue`` in it are requests. When one process of a job fails, the others are
ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.1
KILL_SECONDS = 40


class RunningJob:
    """The processes of one start of a job."""

    def __init__(self, place: Path, job: dict) -> None:
        self.place, self.job = place, job
        self._stopped_at: float | None = None
        counter = place / "starts"
        starts = int(counter.read_text()) + 1 if counter.exists() else 0
        counter.write_text(str(starts))
        write_state(place, "running")
        numbers = {"SPOOL_JOB_ID": place.name, "SPOOL_STARTS": str(starts)}
        sizes = {"SPOOL_NUM_NODES": str(job["num_nodes"])}
        with (place / "output.log").open("ab") as log:
            self._nodes = [
                subprocess.Popen(
                    job["command"],
                    cwd=job["directory"],
                    env={**job["environment"], **numbers, **sizes, "SPOOL_NODE_RANK": str(rank)},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for rank in range(job["num_nodes"])
            ]

    def step(self) -> bool:
        """Look once; returns whether the job has left its nodes."""
        codes = [node.poll() for node in self._nodes]
        requests = [(self.place / name).exists() for name in ("cancel", "preempt")]
        if self._stopped_at is None and (any(codes) or any(requests)):
            self._stopped_at = time.monotonic()
            self._signal(signal.SIGTERM)
        if self._stopped_at is not None and time.monotonic() - self._stopped_at > KILL_SECONDS:
            self._signal(signal.SIGKILL)
        if None in codes:
            return False
        requeue = self.place / "requeue"
        write_state(self.place, "queued" if requeue.exists() else "ended")
        requeue.unlink(missing_ok=True)
        (self.place / "preempt").unlink(missing_ok=True)
        return True

    def _signal(self, signum: signal.Signals) -> None:
        for node in self._nodes:
            if node.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(node.pid, signum)


def write_state(place: Path, word: str) -> None:
    """Replace the state of a job, so that a reader sees the old one or the new one."""
    (place / ".state").write_text(word)
    (place / ".state").replace(place / "state")


def is_queued(job: Path) -> bool:
    """Whether a job waits for its first start, or for another one."""
    state = job.with_name("state")
    return not state.exists() or state.read_text() == "queued"


def serve(spool: Path) -> None:
    """Start jobs in the order in which they came, until this process is killed."""
    running: list[RunningJob] = []
    while True:
        running = [job for job in running if not job.step()]
        queued = [path for path in spool.glob("*/job.json") if is_queued(path)]
        for path in sorted(queued, key=lambda path: path.stat().st_mtime_ns):
            job = json.loads(path.read_text())
            if (path.parent / "cancel").exists():
                write_state(path.parent, "ended")
            elif sum(r.job["group"] == job["group"] for r in running) < job["max_parallel"]:
                running.append(RunningJob(path.parent, job))
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
