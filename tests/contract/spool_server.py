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

    def __init__(self, place: Path, job: dict, starts: int) -> None:
        self.place, self.job, self.starts = place, job, starts
        self._stopped_at: float | None = None
        self._write("running")
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

    def _write(self, word: str) -> None:
        temporary = self.place / ".state"
        temporary.write_text(word)
        temporary.replace(self.place / "state")

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
        self._write("queued" if requeue.exists() else "ended")
        requeue.unlink(missing_ok=True)
        (self.place / "preempt").unlink(missing_ok=True)
        return True

    def _signal(self, signum: signal.Signals) -> None:
        for node in self._nodes:
            if node.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(node.pid, signum)


def serve(spool: Path) -> None:
    """Start jobs in the order in which they came, until this process is killed."""
    running: list[RunningJob] = []
    starts: dict[str, int] = {}
    while True:
        running = [job for job in running if not job.step()]
        queued = [p for p in spool.glob("[!.]*/state") if p.read_text() == "queued"]
        for state in sorted(queued, key=lambda path: (path.parent / "job.json").stat().st_mtime_ns):
            place = state.parent
            if (place / "cancel").exists():
                state.write_text("ended")
                continue
            job = json.loads((place / "job.json").read_text())
            if sum(r.job["group"] == job["group"] for r in running) < job["max_parallel"]:
                starts[place.name] = starts.get(place.name, -1) + 1
                running.append(RunningJob(place, job, starts[place.name]))
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
