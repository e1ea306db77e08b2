"""What the runs of a sweep on this machine cost on S3 while they wait for their turn."""

import pytest
from clusters.proxy import Proxy
from clusters.s3 import S3

from getiaction_launch.backends.backend import LOCAL
from getiaction_launch.backends.queue import Queue
from getiaction_launch.backends.queue_lease import holding_lease_of_queue
from getiaction_launch.run import lease
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children

BACKEND = BackendRecord(LOCAL, {"grace_seconds": 1})


@pytest.fixture
def runs(_moto: S3, recorder: Proxy) -> list[Run]:  # noqa: ARG001 - clients reach the server through it
    """Twenty runs on S3."""
    root = f"{_moto.make_bucket()}/experiments"
    return [Run.at(f"{root}/act/version_{version}") for version in range(20)]


def test_a_waiting_run_costs_two_requests_once(runs, sent):
    """Its job.json is read and written, the first one's last."""
    requests = sent(Queue, runs, BACKEND, ["job"], 1)
    assert sorted(request.split()[0] for request in requests) == ["GET"] * 20 + ["PUT"] * 20
    assert "act/version_0/" in requests[-1]


def test_one_request_renews_the_lease_of_all_waiting_runs(runs, recorder, sent, until, monkeypatch):
    """However many there are; when none waits any more, it is removed."""
    monkeypatch.setattr(lease, "REMOTE_PERIOD_SECONDS", 0.02)
    queue = Queue(runs, BACKEND, ["job"], 1)
    with holding_lease_of_queue(queue.name, queue.job_id, runs, queue.has):
        until(lambda: len(recorder.requests) > 43)
        renewals = recorder.requests[40:]
        for run in runs:
            JobRecord(BACKEND, job_id="7@x").write(run)
    (renewal,) = set(renewals)
    assert renewal.startswith("PUT ")
    assert "/experiments/.queue-" in renewal
    monkeypatch.setattr(lease, "REMOTE_PERIOD_SECONDS", 60)
    held = holding_lease_of_queue(queue.name, queue.job_id, runs, queue.has)
    assert sent(held.__enter__) == [renewal]
    held.__exit__(None, None, None)
    assert [path.name for path in children(runs[0].directory.parents[1])] == ["act"]
