"""The queue of a sweep on this machine: whose turn it is, and what is true of those that wait."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import psutil
import pytest

from getiaction_launch.backends import local
from getiaction_launch.backends import queue as queue_module
from getiaction_launch.backends.backend import LOCAL, former_jobs
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.backends.queue import Queue, is_next
from getiaction_launch.backends.queue_lease import holding_lease_of_queue, remove_left_leases
from getiaction_launch.backends.starting import write_job
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.launch.status import read_status
from getiaction_launch.launch.submit import cancel
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run import lease
from getiaction_launch.run.lease import Lease
from getiaction_launch.run.records import BackendRecord, Cancel, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

BACKEND = BackendRecord(LOCAL, {"grace_seconds": 1})
JOB = """\
import pathlib, sys
pathlib.Path(sys.argv[1], "started").write_text(" ".join(sys.argv[2:]))
print("no such gripper")
sys.exit(1)
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs that were claimed; `python -m job` says that it was started, and fails."""
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = []
    for _ in range(3):
        run = Run.claim(str(tmp_path / "experiments"), "act")
        plan = Plan("act", str(tmp_path), [], ["t.py"], Topology(1, 1, 0), "/")
        run.write("plan", plan.to_json())
        found.append(run)
    return found


@pytest.fixture
def living(monkeypatch):
    """Take this process for that of the queue."""
    words = [sys.executable, "-m", "getiaction_launch.backends.queue"]
    place = {}
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [*words, place["first"]])
    return place


def wait_for_jobs(queue):
    """Wait for the jobs that were started, and return how many these are."""
    jobs = list(queue._jobs.values())
    for job in jobs:
        job.wait(60)
    return len(jobs)


def started(runs):
    """Which of the runs had their job started."""
    return [(run.directory / "started").exists() for run in runs]


def test_jobs_are_started_in_their_order(runs):
    """At most so many at a time, each with the id that it must find in its job.json."""
    queue = Queue(runs, BACKEND, ["job", "1", "2"], 2)
    ids = [JobRecord.read(run).job_id for run in runs]
    queue.advance()
    assert wait_for_jobs(queue) == 2
    assert started(runs) == [True, True, False]
    assert (runs[0].directory / "started").read_text() == f"1 2 {ids[0]}"
    queue.advance()
    assert wait_for_jobs(queue) == 1
    queue.advance()
    assert queue.is_over


def test_run_whose_storage_fails_has_another_turn(runs, monkeypatch):
    """Behind the others, which do not wait for it."""
    queue = Queue(runs, BACKEND, ["job"], 1)
    real, failures = queue_module.start_detached, [OSError(5, os.strerror(5))]

    def start(*words):
        if failures:
            raise failures.pop()
        return real(*words)

    monkeypatch.setattr(queue_module, "start_detached", start)
    queue.advance()
    assert queue.waiting == [*runs[1:], runs[0]]
    while not queue.is_over:
        queue.advance()
        wait_for_jobs(queue)
    assert started(runs) == [True] * 3


def test_job_that_cannot_start_has_failed_with_its_last_words(runs):
    """Nobody waits for it, although the queue lives."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    queue.advance()
    wait_for_jobs(queue)
    queue.advance()
    status = read_status(runs[0])
    assert (status.state, "no such gripper" in status.reason) == (JobState.FAILED, True)
    assert "queue" not in runs[0].read("job")


def test_storage_that_always_fails_is_asked_ever_less_often(runs, monkeypatch):
    """Up to once a minute, and the log of each run has one line about it."""
    queue = Queue(runs, BACKEND, ["job"], 1)
    now, asked = [1e5], []

    def refuse(*_):
        asked.append(now[0])
        raise OSError(13, "Access Denied")

    monkeypatch.setattr(queue_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Queue, "has", refuse)
    for _ in range(5 * 600):
        queue.advance()
        now[0] += queue_module.POLL_SECONDS
    assert len(asked) < 20
    assert 59 < asked[-1] - asked[-2] < 61
    for run in runs:
        (line,) = queue_module.job_log(run).read_text().splitlines()
        assert line.startswith(f"{run.name} cannot be started yet, and is retried: ")
        assert "Access Denied" in line


@pytest.mark.parametrize("number", [0, 1])
def test_run_that_cannot_be_started_has_failed_with_the_reason(runs, living, monkeypatch, number):
    """Also the first one, after which the process of the queue is named; the others are started."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    living["first"] = str(runs[0].directory)
    words = queue_module.command_of

    def refuse(run, *others):
        if run == runs[number]:
            raise CheckError("its staging directory belongs to another user.", "Choose another.")
        return words(run, *others)

    monkeypatch.setattr(queue_module, "command_of", refuse)
    queue.advance()
    wait_for_jobs(queue)
    assert started(runs) == [each != number for each in range(3)]
    status = read_status(runs[number])
    assert status.state is JobState.FAILED
    assert "cannot be started: its staging directory belongs to another user." in status.reason


def test_waiting_run_is_cancelled_and_passed_over(runs, living):
    """It counts as cancelled at once, and those before and behind it have their turns."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    living["first"] = str(runs[0].directory)
    assert [read_status(run).state for run in runs] == [JobState.PENDING] * 3
    assert cancel(runs[1]).state is JobState.CANCELLED
    assert read_status(runs[2]).state is JobState.PENDING
    queue.advance()
    wait_for_jobs(queue)
    assert started(runs) == [True, False, True]


def test_run_that_was_resumed_in_another_way_is_passed_over(runs, living):
    """The queue does not start it again, nor does a job that it has just started train it."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    living["first"] = str(runs[0].directory)
    record = JobRecord.read(runs[1])
    assert is_next(runs[1], record.job_id)
    assert not is_next(runs[1], "another")
    replace(record, previous_job_ids=former_jobs(runs[1])).write(runs[1])  # as resume does first
    assert not is_next(runs[1], record.job_id)
    queue.advance()
    wait_for_jobs(queue)
    assert started(runs) == [True, False, True]


def test_directory_that_was_removed_is_passed_over(runs):
    """It does not come into being again, and the others have their turns."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    subprocess.run(["rm", "-r", str(runs[1].directory)], check=True)  # noqa: S607 - a user's own
    queue.advance()
    wait_for_jobs(queue)
    assert started(runs) == [True, False, True]
    assert not runs[1].directory.exists()


def test_cancel_ends_a_job_that_has_its_turn_in_this_moment(runs, living, monkeypatch):
    """Its own job.json is there by the time that the run is recorded as cancelled."""
    Queue(runs, BACKEND, ["job"], 3)
    living["first"] = str(runs[0].directory)
    waiting = JobRecord.read(runs[0])
    own = replace(waiting, job_id="7@x", details={"process": {**waiting.details["process"]}})
    ended = []
    monkeypatch.setattr(Cancel, "write", lambda _, run, **__: own.write(run))
    monkeypatch.setattr(ProcessJob, "_stop", lambda job: ended.append(job.record.job_id))
    living["first"] = str(runs[0].directory)
    ProcessJob(runs[0], waiting, 1).cancel()
    assert ended == ["7@x"]


def test_run_that_waits_on_a_full_disk_is_not_said_to_be_cancelled(runs, living, monkeypatch):
    """It would still have its turn."""
    Queue(runs, BACKEND, ["job"], 3)
    living["first"] = str(runs[0].directory)

    def refuse(*_, **__):
        raise OSError(28, os.strerror(28), "cancel.json")

    monkeypatch.setattr(Cancel, "write", refuse)
    with pytest.raises(UnreachableError, match="No space left"):
        cancel(runs[2])


def test_runs_whose_queue_was_killed_have_failed(runs):
    """They do not wait for ever."""
    Queue(runs, BACKEND, ["job"], 3)  # this process's command line is not that of a queue
    statuses = [read_status(run) for run in runs]
    assert {status.state for status in statuses} == {JobState.FAILED}
    assert "the process of its sweep was killed" in statuses[0].reason


@pytest.fixture
def elsewhere(runs):
    """A queue on another machine: runs, and what keeps its lease."""
    queue = Queue(runs, BACKEND, ["job"], 3)
    for run in runs:
        record = JobRecord.read(run)
        other = dict.fromkeys(("host", "machine_id", "boot_id"), "another")
        details = {**record.details["process"], **other}
        replace(record, details={**record.details, "process": details}).write(run)
    return queue, holding_lease_of_queue(queue.name, queue.job_id, runs, queue.has)


def states(runs):
    """The state of each run."""
    return [read_status(run).state for run in runs]


def hidden(runs):
    """Names of hidden files beside the runs."""
    return [path.name for path in runs[0].directory.parents[1].glob(".*")]


def test_other_machines_see_that_a_waiting_run_is_alive(runs, elsewhere):
    """By the lease of the queue, until that ends; another queue's says nothing."""
    queue, held = elsewhere
    assert states(runs) == [JobState.UNKNOWN] * 3
    with held:
        assert states(runs) == [JobState.PENDING] * 3
        with holding_lease_of_queue(queue.name, "7@x", runs, queue.has):
            assert states(runs) == [JobState.UNKNOWN] * 3
    assert states(runs) == [JobState.FAILED] * 3
    assert len(hidden(runs)) == 1


def test_other_machines_see_the_end_of_a_queue_that_has_started_a_run_in_vain(runs, elsewhere):
    """Its job has ended before it could write anything, and that could not be recorded either."""
    queue, held = elsewhere
    with held:
        queue.waiting.clear()
        for run in runs[1:]:
            JobRecord(BACKEND, job_id="7@x").write(run)
    assert states(runs[:1]) == [JobState.FAILED]


def test_other_machines_see_that_a_run_waits_in_a_queue_of_an_earlier_version(runs, elsewhere):
    """It has renewed the lease of each run."""
    queue, _ = elsewhere
    for run in runs[:2]:
        Lease(queue.job_id, time.time()).write(run)
    assert states(runs) == [JobState.PENDING, JobState.PENDING, JobState.UNKNOWN]


def test_lease_of_a_queue_outlives_its_first_run_and_leaves_nothing(runs, elsewhere):
    """That one may be removed long before the others have their turns."""
    _, held = elsewhere
    with held:
        runs[0].discard()
        assert states(runs[1:]) == [JobState.PENDING] * 2
        for run in runs[1:]:
            JobRecord(BACKEND, job_id="7@x").write(run)
    assert hidden(runs) == []
    assert not runs[0].directory.exists()


def test_other_machines_see_that_a_queue_was_killed(runs, elsewhere, monkeypatch):
    """Five minutes after the last renewal, the runs that wait have FAILED and can be resumed."""
    queue, held = elsewhere
    with held:
        now = time.time()
        monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: now + 299))
        assert states(runs) == [JobState.PENDING] * 3
        monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: now + 301))
        assert states(runs) == [JobState.FAILED] * 3
    assert queue.waiting == runs


@pytest.mark.parametrize(
    ("age_seconds", "names", "is_waiting", "is_left"),
    [
        (301, None, False, False),
        (301, None, True, True),  # other machines see by it that nobody starts the run
        (0, None, False, True),
        (301, ["../act/version_0"], False, True),  # of somebody who wants other files to be read
        (301, [], False, False),
    ],
)
def test_lease_that_a_killed_queue_has_left_is_removed(
    runs, age_seconds, names, is_waiting, is_left
):
    """By the next queue of the same root, once no run waits in the killed one."""
    names = [run.name for run in runs] if names is None else names
    killed = Run(runs[0].directory.with_name("version_9"))
    left = lease.place_of_queue(killed, str(killed.directory))
    left.write_text(json.dumps({"renewed_at": time.time() - age_seconds, "runs": names}))
    if is_waiting:
        write_job(runs[1], BACKEND, queue=str(killed.directory))
    else:
        write_job(runs[1], BACKEND, queue=str(runs[0].directory))  # in another one
    remove_left_leases(left.parent)
    assert left.exists() is is_left


def test_queue_that_ends_leaves_no_lease(runs):
    """Neither its own, nor one that another queue has left."""
    left = lease.place_of_queue(runs[0], "killed")
    left.write_text(json.dumps({"renewed_at": 0, "runs": [runs[0].name]}))
    order = {"runs": [str(run.directory) for run in runs], "backend": asdict(BACKEND)}
    order |= {"command": ["job"], "at_once": 3}
    words = [sys.executable, "-m", queue_module.__name__, str(runs[0].directory)]
    subprocess.run(words, input=json.dumps(order), text=True, timeout=60, check=True)
    assert started(runs) == [True] * 3
    assert hidden(runs) == []


@pytest.mark.parametrize(("max_parallel", "sharing"), [(1, 3), (4, 4)])
def test_resumed_point_keeps_its_share_of_the_threads(runs, monkeypatch, max_parallel, sharing):
    """Its sums would otherwise be rounded in another order than in the attempts before."""
    Queue(runs, BACKEND, ["job"], 3)
    seen = []

    def drive(run, place, *_):
        del run
        with place():
            pass

    monkeypatch.setattr(local, "StopRequest", lambda: SimpleNamespace(signal=None))
    monkeypatch.setattr(local, "drive", drive)
    local.run_job(runs[1], local.LocalBackend(), max_parallel, lambda *words: seen.append(words[2]))
    assert seen == [sharing]
    assert runs[1].read("job")["side_by_side"] == sharing
