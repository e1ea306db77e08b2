"""A Ray job whose cluster does not answer: what its driver's lease says, and how it is ended."""

import time

import pytest

from getiaction_launch.backends import cancelling
from getiaction_launch.backends.backend import RAY
from getiaction_launch.backends.ray.client import HERE
from getiaction_launch.backends.ray.job import RayJob
from getiaction_launch.cli.main import main
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.launch.status import read_status
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Ending, write_end
from getiaction_launch.run.lease import LIMIT_SECONDS, Lease
from getiaction_launch.run.records import AttemptRecord, BackendRecord, Cancel, JobRecord
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def run(tmp_path):
    """A run of a job whose cluster is gone."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", Plan("act", str(tmp_path), [], ["t.py"], Topology(1, 1, 0), "/").to_json())
    JobRecord(BackendRecord(RAY, {"address": NOWHERE}), "act-1", 1.0).write(run)
    AttemptRecord(0, "k").write(run)
    return run


@pytest.fixture
def job(run):
    """Its job."""
    return RayJob(run, JobRecord.read(run), NOWHERE, 0)


def test_stale_lease_ends_the_job_of_a_cluster_that_is_gone(run, job):
    """Until then its state is unknown; afterwards nothing is left to cancel, and it resumes."""
    assert job.status().state is JobState.UNKNOWN
    Lease("act-1", time.time()).write(run)
    status = job.status()
    assert status.state is JobState.UNKNOWN
    assert "last known to live 0 s ago" in status.reason
    Lease("act-1", time.time() - LIMIT_SECONDS - 60).write(run)
    status = job.status()
    assert (status.state, status.cause) == (JobState.FAILED, Cause.NODE_FAILURE)
    assert "does not answer: " in status.reason
    assert status.reason.endswith(", and its driver was last known to live 6 min ago")
    job.cancel()
    Lease("act-1", None).write(run)
    assert "its driver has ended" in job.status().reason


def test_head_that_was_on_this_machine_is_no_exception(run):
    """Its address is where one looks by default, and is said in other words."""
    record = JobRecord(BackendRecord(RAY, {"address": HERE}), "act-1", 1.0)
    record.write(run)
    assert RayJob(run, record, HERE, 0).status().state is JobState.UNKNOWN
    assert read_status(run).state is JobState.UNKNOWN


def test_driver_reads_that_it_is_cancelled(run, job, replace_clock):
    """Also where the dashboard alone is gone."""
    Lease("act-1", time.time()).write(run)

    def end(_):
        assert Cancel.read(run)
        write_end(run, AttemptRecord(0, "k"), Ending(JobState.CANCELLED, Cause.CANCEL))

    replace_clock(cancelling, sleep=end)
    job.cancel()
    assert read_status(run).state is CANCELLED.state


def test_way_out_is_named_where_nothing_is_known(run, job, capsys):
    """Neither status, nor cancel, nor resume sends the user around in a circle."""
    with pytest.raises(UnreachableError, match=r"(?s)resume --force --address http://HEAD:8265"):
        job.cancel()
    assert main(["resume", str(run.directory)]) == CheckError.exit_code
    assert "resume --force" in capsys.readouterr().err
    words = ["resume", "--force", "--address", "http://127.0.0.1:2", str(run.directory)]
    assert main(words) == UnreachableError.exit_code
    assert "the Ray cluster at http://127.0.0.1:2 does not answer" in capsys.readouterr().err


def test_address_is_of_ray_alone(tmp_path, capsys):
    """A local run has none."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", Plan("act", str(tmp_path), [], ["t.py"], Topology(1, 1, 0), "/").to_json())
    record = BackendRecord("getiaction_launch.backends.local.LocalBackend")
    JobRecord(record, details={"process": {"host": "lab9", "pid": 9}}).write(run)
    process = {"host": "lab9", "pid": 9, "started_after_boot_seconds": 1.0}
    JobRecord(record, "9@lab9", details={"process": process}).write(run)
    assert main(["resume", "--force", "--address", "http://h:1", str(run.directory)]) == 2
    assert "cluster 'local' has no address (--address)." in capsys.readouterr().err
