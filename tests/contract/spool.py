"""A backend on the public contract alone: jobs are files in a spool directory.

It stands for schedulers like PBS, which start a process on every node of a job; here the script
``spool_server.py`` does. docs/new-backend.md explains it.
"""

import json
import os
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals

from getiaction_launch import Backend, Cause, Job, JobState, JobStatus, Plan, Run
from getiaction_launch.backends.backend import load_backend, record_of, replace_fields
from getiaction_launch.backends.cancelling import cancelling
from getiaction_launch.errors import CheckError, UnreachableError, UsageError
from getiaction_launch.node.allocation import Allocation, Limits
from getiaction_launch.node.joining import join
from getiaction_launch.node.sidecar import MakeSidecar, Sidecar
from getiaction_launch.run.records import BackendRecord, Cancel, JobRecord
from getiaction_launch.storage.paths import last_line

COMMAND = (sys.executable, "-m", "spool")


@dataclass(frozen=True)
class SpoolBackend:
    """Trains as a job that the server of a spool directory starts.

    Args:
        spool: The directory that the server watches.
        grace_seconds: How long workers may take to end after SIGTERM before they are killed.
    """

    spool: str
    grace_seconds: float = 5

    @property
    def start_seconds(self) -> float:
        """A job that has not begun by then waits in the queue."""
        return 5

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait in a queue: the server starts one after another."""
        return True

    def with_settings(self, values: Mapping[str, object]) -> Backend:
        """The same backend with other values for some of its fields."""
        return replace_fields(self, values)

    def resolve_runs(self, root: str) -> Backend:  # noqa: ARG002 - the contract's argument
        """The same backend: no setting names a run."""
        return self

    def working_directory(self) -> Path | None:
        """None: jobs run in the shell's directory."""
        return None

    def free_gpus(self, num_nodes: int) -> int | None:  # noqa: ARG002 - the contract's argument
        """No GPUs: a spool server runs on CPUs."""
        return 0

    def check(self, plan: Plan) -> None:
        """Check that the spool directory exists and the plan needs no GPUs."""
        if not Path(self.spool).is_dir():
            raise CheckError(f"spool={self.spool!r} does not exist.", f"mkdir {self.spool}")
        if plan.topology.gpus_per_node:
            raise CheckError("a spool server has no GPUs.", "--gpus-per-node 0")

    def check_offers(self, plan: Plan) -> str:  # noqa: ARG002 - the contract's argument
        """Nothing that a job could ask for, and that might come later."""
        return "the spool directory"

    def describe(self, plan: Plan) -> list[str]:
        """The command that the server runs on each node."""
        return [shlex.join([*COMMAND, f"{plan.root}/{plan.name}/version_N"])]

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Write a job's file for each run; the server starts what appears in its directory."""
        for run in runs:
            before = JobRecord.read(run)
            earlier = [*before.previous_job_ids, before.job_id] if before else []
            place = Path(self.spool).absolute() / uuid.uuid4().hex[:8]
            place.mkdir(mode=0o700)  # the environment may hold secrets
            backend = record_of(replace(self, spool=str(place.parent)))  # from any directory
            log = f"{place}/output.log"
            record = JobRecord(backend, place.name, time.time(), earlier, output=log)
            record.write(run)  # first: the job reads it
            plan = Plan.of(run)
            job = {
                "command": [*COMMAND, str(run.directory)],
                "directory": plan.working_directory,
                "environment": dict(os.environ),
                "num_nodes": plan.topology.num_nodes,
                "max_parallel": max_parallel or len(runs),
                "group": str(runs[0].directory),
            }
            (place / ".job.json").write_text(json.dumps(job))
            (place / ".job.json").rename(place / "job.json")  # from here on the server sees it

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find a job that any shell submitted."""
        return SpoolJob(run, record, Path(self.spool, record.job_id))

    def allocation(self, plan: Plan) -> Allocation | None:
        """The node of a job that this process is."""
        if os.environ.get("SPOOL_NUM_NODES") != str(plan.topology.num_nodes):
            raise UsageError("this process is not one node of a job that fits the plan.")
        return SpoolAllocation(record_of(self), Limits(self.grace_seconds), Path(self.spool))


@dataclass(frozen=True)
class SpoolJob:
    """A job in the spool directory."""

    run: Run
    record: JobRecord
    place: Path
    resume_command: str | None = None

    def status(self) -> JobStatus:
        """What the server has written, with what the run's own records say since then."""
        is_new = self.place.exists() and not (self.place / "state").exists()
        word = "queued" if is_new else last_line(self.place / "state")
        if word in ("queued", "running"):
            return JobStatus(JobState.PENDING if word == "queued" else JobState.RUNNING)
        if Cancel.read(self.run):
            return JobStatus(JobState.CANCELLED, "cancelled by you", Cause.CANCEL)
        reason = f"its job {word}: {last_line(self.place / 'output.log')}"
        return JobStatus(JobState.FAILED, reason, Cause.NODE_FAILURE)

    def cancel(self) -> None:
        """End the job; return when the server has no process of it any more."""
        if self.status().state.is_over:
            return
        with cancelling(self.run):  # writes a record first, which the job reads when it must end
            (self.place / "cancel").touch()
        for _ in range(600):  # a minute
            if self.status().state.is_over:
                return
            time.sleep(0.1)
        raise UnreachableError(f"job {self.record.job_id} does not end.")

    def execute(self, node_rank: int, host: str, arguments: Sequence[str]) -> int:  # noqa: ARG002
        """Nothing: the server starts the processes of a job only when the job starts."""
        raise CheckError("a spool server runs nothing in a job that has started.", f"ssh {host}")


@dataclass(frozen=True)
class SpoolAllocation:
    """One node of one start of a job, as the server's variables describe it."""

    backend: BackendRecord
    limits: Limits
    spool: Path
    make_sidecar: MakeSidecar = Sidecar
    address: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=lambda: {"OMP_NUM_THREADS": "1"})

    @property
    def node_rank(self) -> int:
        """Rank of this node in the job, from 0."""
        return int(os.environ["SPOOL_NODE_RANK"])

    @property
    def job_id(self) -> str:
        """The job's name in the spool directory."""
        return os.environ["SPOOL_JOB_ID"]

    @property
    def key(self) -> str:
        """The job's name, and how often it was started before."""
        return f"{self.job_id}.{os.environ['SPOOL_STARTS']}"

    def record(self) -> JobRecord:
        """What ``job.json`` must say where the job is the user's own."""
        return JobRecord(self.backend, self.job_id, time.time())

    def owns(self, record: JobRecord) -> bool:
        """Whether ``record`` is that of this job."""
        return record.job_id == self.job_id

    def stop_cause(self, stopped_by: Signals) -> Cause | None:  # noqa: ARG002 - the contract's
        """PREEMPTION where the server takes the nodes away; None if another node has ended."""
        return Cause.PREEMPTION if (self.spool / self.job_id / "preempt").exists() else None

    def requeue(self) -> str | None:
        """Ask the server to start this job once more."""
        (self.spool / self.job_id / "requeue").touch()
        return None

    def hand_over(self, run: Run) -> str | None:  # noqa: ARG002 - the contract's argument
        """Why no other job continues the run; the server never refuses a requeue."""
        return "this server always requeues"


def main() -> int:
    """What the server starts on every node: ``python -m spool RUN``."""
    run = Run.at(sys.argv[1])
    record = JobRecord.read(run) or JobRecord()
    allocation = load_backend(record.backend, "job.json").allocation(Plan.of(run))
    return join(run, allocation) if allocation else 1


if __name__ == "__main__":
    sys.exit(main())
