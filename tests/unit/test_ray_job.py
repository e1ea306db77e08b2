"""A job of Ray that is asked about and cancelled, with a client that answers as a test says."""

import pytest
import requests
from fake_slurm import make_plan, make_run

from getiaction_launch.backends.ray import job as ray_job
from getiaction_launch.backends.ray.failures import is_out_of_memory
from getiaction_launch.errors import UnreachableError
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.restart import may_begin


class Client:
    """A dashboard that goes away between two requests."""

    def get_job_info(self, job_id):
        """The job runs."""
        state = type("S", (), {"value": "RUNNING"})
        return type("Info", (), {"message": job_id, "status": state, "metadata": None})

    def stop_job(self, job_id):
        """Nobody answers any more."""
        raise requests.exceptions.ConnectionError(f"{job_id}: connection refused")


def test_cancel_that_did_not_reach_ray_leaves_no_record(tmp_path, monkeypatch):
    """The driver would read it later and end the run, long after the error."""
    monkeypatch.setattr(ray_job, "connect", lambda _: Client())
    run = make_run(make_plan(tmp_path), {"job_id": "act-1"})
    with pytest.raises(UnreachableError, match="does not answer"):
        ray_job.RayJob(run, JobRecord.read(run), "http://head:8265", 5).cancel()
    assert run.read("cancel") is None
    assert may_begin(run)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed", True),
        ("1 worker(s) were killed due to the node running low on memory.", True),
        ("common causes include: (1) the process was killed by the OOM killer due to", False),
    ],
)
def test_what_rays_memory_monitor_kills_is_out_of_memory(words, expected):
    """Its other messages only guess at it."""
    assert is_out_of_memory(RuntimeError(words)) is expected
