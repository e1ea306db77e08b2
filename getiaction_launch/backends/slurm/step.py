"""What submitit starts on every node of a job.

Beware: the pickles of queued jobs name this module and its function. Jobs that were submitted
before an upgrade can start only as long as both keep their names and arguments.
"""

import atexit
import gc

from getiaction_launch.backends.backend import Backend, load_backend
from getiaction_launch.node.joining import join
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.system.stop import StopRequest


def run_task(directory: str, backend: Backend | None = None, company: object = None) -> None:
    """Be one node of the job's run.

    Args:
        directory: Directory or URL of the run.
        backend: The backend that submitted the job, since ``job.json`` may not be written yet;
            None in pickles of earlier versions.
        company: Ignored; pickles of earlier versions name a class here.

    Raises:
        SystemExit: With the exit code of the node, unless that is 0.
    """
    del company
    atexit.register(gc.freeze)  # a search for garbage would delay the end of the job
    stop = StopRequest()  # first: submitit's own handlers would requeue the job
    run = Run.at(directory)
    if backend is None:
        record = JobRecord.read(run) or JobRecord()
        backend = load_backend(record.backend, f"{run.launch_directory / 'job.json'}")
    allocation = backend.allocation(Plan.of(run))
    # submitit would write an exception, but nothing else, into its result pickle.
    if allocation and (code := join(run, allocation, stop)):
        raise SystemExit(code)
