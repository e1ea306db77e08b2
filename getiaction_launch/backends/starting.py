"""Starts a job process of this machine, and records how to find it again."""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from getiaction_launch.errors import CheckError
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import last_line
from getiaction_launch.system.detached import start_detached
from getiaction_launch.system.machine import Machine
from getiaction_launch.system.processes import start_seconds

QUEUE = "queue"
"""Detail of ``job.json`` as long as the run waits for its turn; see :func:`write_job`."""
SIDE_BY_SIDE = "side_by_side"


def start_process(run: Run, module: str, words: Sequence[str], text: str = "") -> None:
    """Start ``python -m module RUN WORDS...`` in a new session, and wait for its ``job.json``.

    Args:
        run: The run, whose directory is the first argument of the process.
        module: Import path of the module to run.
        words: Further arguments of the process.
        text: What the process reads from its standard input.

    Raises:
        CheckError: If the process ends earlier; the message quotes the last line of its output.
    """
    log_path = job_log(run)
    before = JobRecord.read(run)
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        process = start_detached(command_of(run, module, words), log_path, file)
    try:
        while (record := JobRecord.read(run)) == before and process.poll() is None:
            time.sleep(run.poll_seconds)
    except KeyboardInterrupt:
        process.kill()  # without job.json, status and cancel could not find it
        raise
    if record == before:
        raise CheckError(f"the job of run {run.name} could not start: {last_line(log_path) or ''}")


def command_of(run: Run, module: str, words: Sequence[str]) -> list[str]:
    """Return the command line of a job process, by which it is known again."""
    return [sys.executable, "-m", module, str(run.directory), *words]


def job_log(run: Run) -> Path:
    """Return the file with the output of a run's job process, in a directory that exists."""
    return run.make_log_directory(0) / "job.log"


def write_job(
    run: Run,
    backend: BackendRecord,
    *,
    queue: str | None = None,
    pid: int | None = None,
    has_ended: bool = False,
    side_by_side: int = 1,
) -> JobRecord:
    """Write a ``job.json`` that says how to find this process, and return it.

    Args:
        run: The run that this process is the job of.
        backend: The backend that started this process.
        queue: If this process only waits to start the job: the directory in its command line, which
            is that of the first run of the queue.
        pid: Id of the process if it is another one.
        has_ended: Whether the job has ended, or could not be started at all.
        side_by_side: How many runs of its sweep share this machine's CPUs.
    """
    machine, pid = Machine.here(), pid or os.getpid()
    now = JobRecord.read(run) or JobRecord()
    earlier = now.previous_job_ids if is_waiting(now) else now.job_ids  # what waits has run nothing
    # Process ids and host names come again, in containers of one image even at once.
    name = f"{pid}@{machine.host}"
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    started_at = None if has_ended else start_seconds(pid)
    process = ProcessDetails(pid=pid, started_after_boot_seconds=started_at, **vars(machine))
    details: dict[str, object] = {"process": asdict(process), SIDE_BY_SIDE: side_by_side}
    record = JobRecord(
        backend,
        job_id=next(each for each in names if each not in earlier),
        submitted_at=time.time(),
        previous_job_ids=earlier,
        details={**details, QUEUE: queue} if queue else details,
    )
    record.write(run)
    return record


def is_waiting(record: JobRecord) -> bool:
    """Whether a run waits for its turn in a queue, and nobody has resumed it in another way."""
    return QUEUE in record.details and record.job_id not in record.previous_job_ids


@dataclass(frozen=True)
class ProcessDetails:
    """How to find a job process again, in the details of ``job.json``.

    Attributes:
        host: Host name of the machine that the process runs on.
        pid: Process id on that machine.
        started_after_boot_seconds: When the process started, in seconds since the machine booted.
        machine_id: Id of the machine's installation, if it has one.
        boot_id: Id of the boot of the machine's kernel, if that says so.
        pid_namespace: Number of the namespace in which the process has that id.
    """

    host: str
    pid: int
    started_after_boot_seconds: float | None
    machine_id: str | None = None
    boot_id: str | None = None
    pid_namespace: int | None = None

    @property
    def machine(self) -> Machine:
        """The machine that the process runs on."""
        return Machine(self.host, self.machine_id, self.boot_id, self.pid_namespace)
