"""A job that any shell finds, follows and cancels."""

import dataclasses
import json
import time

import pytest
from fake_slurm import DOWN, NO_ACCOUNTING, ask, make_plan, make_run

from getiaction_launch.backends.slurm import command
from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.errors import (
    UnreachableError,
)
from getiaction_launch.launch.status import read_status
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.restart import may_begin
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

pytestmark = pytest.mark.usefixtures("slurm")

SLURM_JOB = {"backend": {"class_path": "getiaction_launch.backends.slurm.SlurmBackend"}}


def begin_attempt(run: Run, **changes) -> None:
    """Write the record of an attempt that begins now."""
    record = {"number": 0, "key": "k", "started_at": time.time(), "goes_on": False, **changes}
    run.write("attempt_0", record)


def test_run_that_tells_of_itself_is_younger_than_slurms_answer(slurm, tmp_path):
    """An attempt that began or ended after SLURM was asked is believed."""
    slurm.squeue("12|PENDING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    job = SlurmJob(run, JobRecord.read(run), 3600)
    assert job.status().state is JobState.PENDING
    begin_attempt(run)
    assert job.status().state is JobState.RUNNING
    slurm.squeue("12|RUNNING")
    assert ask(fresh=True).state is JobState.RUNNING
    begin_attempt(run, ended_at=time.time(), goes_on=True)
    assert job.status().state is JobState.PENDING


def test_end_that_was_seen_once_is_not_forgotten(slurm, tmp_path):
    """SLURM forgets jobs within minutes, and many sites have no accounting."""
    slurm.squeue("12|TIMEOUT")
    slurm.answer("sacct", error=NO_ACCOUNTING)
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    job = SlurmJob(run, JobRecord.read(run), 0)
    assert job.status().cause is Cause.TIME_LIMIT
    slurm.squeue()
    told = job.status()
    assert (told.state, told.cause) == (JobState.INTERRUPTED, Cause.TIME_LIMIT)
    other = SlurmJob(run, dataclasses.replace(JobRecord.read(run), job_id="13"), 0)  # resumed
    slurm.squeue("13|RUNNING")
    assert other.status().state is JobState.RUNNING
    begin_attempt(run)  # requeued by hand
    assert job.status().state is JobState.UNKNOWN


def test_job_that_failed_before_its_nodes_began_speaks_by_its_script(slurm, tmp_path):
    """A module or a file system that is not there: the reason is the last line that it printed."""
    slurm.squeue("12_1|FAILED|1|2|NonZeroExitCode")
    run = make_run(make_plan(tmp_path), {"job_id": "12_1", "job_dir": str(tmp_path)})
    log = tmp_path / "12_1_0_log.out"
    log.write_text("loading\nno such module: cuda\n\n")
    job = SlurmJob(run, JobRecord.read(run), 0)
    assert job.status().reason == f"its job failed: no such module: cuda (see {log})"
    other = make_run(make_plan(tmp_path), {"job_id": "12_1", "job_dir": str(tmp_path)})
    begin_attempt(other)
    assert SlurmJob(other, JobRecord.read(other), 0).status().reason == "its job failed"


# As srun 22.05 writes it; the accounting calls this step FAILED, for its first node ended well.
OOM_LOG = """submitit INFO (2026-11-28 23:46:08,942) - Starting with JobEnvironment(job_id=2, ...)
start 2.0.0 of this job
srun: error: n2: task 1: Out Of Memory
srun: launch/slurm: _step_signal: Terminating StepId=2.0
slurmstepd-n1: error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-28T23:46:10 ***
"""


@pytest.mark.parametrize(
    ("log", "key", "cause"),
    [
        (OOM_LOG, "2.0.0", Cause.OUT_OF_MEMORY),
        (OOM_LOG.replace("task 1", "tasks 1-3"), "2.0.0", Cause.OUT_OF_MEMORY),
        (OOM_LOG + "start 2.0.1 of this job\n", "2.0.1", Cause.CRASH),  # it was requeued
        (OOM_LOG.replace("Out Of Memory", "Killed"), "2.0.0", Cause.CRASH),
        (OOM_LOG.replace("start", "another program's start"), "2.0.1", Cause.CRASH),
    ],
)
def test_job_whose_node_was_killed_for_memory_is_named_by_its_log(slurm, tmp_path, log, key, cause):
    """Nobody could record it, and SLURM's state is that of a crash."""
    slurm.squeue("2|FAILED|1|2|NonZeroExitCode")
    slurm.answer("sacct", "2|FAILED|5|None\n2.batch|FAILED|5|\n2.0|FAILED|5|\n")
    path = tmp_path / "2_0_log.out"
    path.write_text(log)
    run = make_run(make_plan(tmp_path), {"job_id": "2", "output": str(path)})
    begin_attempt(run, key=key)
    assert SlurmJob(run, JobRecord.read(run), 0).status().cause is cause


@pytest.mark.parametrize(
    ("name", "word", "cause"),
    [
        ("OutOfMemory", "FAILED", Cause.OUT_OF_MEMORY),
        ("OutOfMemory", "NODE_FAIL", Cause.OUT_OF_MEMORY),
        ("ValueError", "FAILED", Cause.CRASH),
        ("ValueError", "NODE_FAIL", Cause.NODE_FAILURE),
    ],
)
def test_error_of_a_worker_is_the_reason_where_nobody_could_conclude(
    slurm, tmp_path, name, word, cause
):
    """Rank 0's node was killed before it wrote how the attempt ended; another node had written."""
    slurm.squeue(f"12|{word}|1|2|NonZeroExitCode")
    run = make_run(make_plan(tmp_path), {**SLURM_JOB, "job_id": "12"})
    begin_attempt(run)
    run.make_log_directory(0)
    run.write_error(0, WorkerError(2, 1, "n2", name, "the worker was killed"))
    status = read_status(run)
    assert (status.state, status.cause) == (JobState.FAILED, cause)
    assert (f"rank 2 on node 1 (n2): {name}" in status.reason) is (cause is not Cause.NODE_FAILURE)


def test_cancel_is_written_down_before_slurm_is_told(slurm, tmp_path):
    """The job that is told to end reads it, and does not requeue itself."""
    slurm.squeue("12_3|RUNNING")
    run = make_run(make_plan(tmp_path), {"job_id": "12_3"})
    gone = "12_3|CANCELLED|1|2|None"
    record = run.launch_directory / "cancel.json"
    hook = f"cp {record} seen && echo '{gone}' > squeue.out"
    slurm.answer("scancel", hook=hook)
    job = SlurmJob(run, JobRecord.read(run), 30)
    job.cancel()
    assert slurm.calls("scancel") == ["scancel 12_3"]
    assert (slurm.directory / "seen").exists()
    told = job.status()
    assert (told.state, told.cause) == (JobState.CANCELLED, Cause.CANCEL)
    assert told.reason == "cancelled by you"
    job.cancel()
    assert len(slurm.calls("scancel")) == 1


def test_cancel_waits_until_the_job_has_left(slurm, tmp_path, monkeypatch):
    """A job that is ending is still there; one that never leaves is an error."""
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.CANCEL_SECONDS", 0.3)
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.POLL_SECONDS", 0.05)
    slurm.squeue("12|COMPLETING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    with pytest.raises(UnreachableError, match="job 12 of run act/version_0 does not end"):
        SlurmJob(run, JobRecord.read(run), 30).cancel()
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.CANCEL_SECONDS", 3600)
    slurm.answer("scancel", error="scancel: error: Kill job error on job id 12: Access denied")
    with pytest.raises(UnreachableError, match="Access denied"):
        SlurmJob(run, JobRecord.read(run), 30).cancel()
    slurm.answer("scancel", error=DOWN)
    with pytest.raises(UnreachableError, match="does not answer scancel"):
        SlurmJob(run, JobRecord.read(run), 30).cancel()


@pytest.mark.parametrize(
    "scancel",
    [
        DOWN.replace("squeue", "scancel"),
        "scancel: error: Kill job error on job id 12: Socket timed out on send/recv operation",
        "scancel: error: Kill job error on job id 12: Access/permission denied",
    ],
)
@pytest.mark.parametrize("squeue", ["", DOWN])
def test_cancel_that_did_not_reach_slurm_leaves_no_record(slurm, tmp_path, scancel, squeue):
    """Otherwise a crash or a requeue an hour later would end the run as cancelled."""
    slurm.squeue("12|RUNNING")
    slurm.answer("scancel", error=scancel)
    if squeue:
        slurm.answer("squeue", error=squeue)
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    with pytest.raises(UnreachableError) as raised:
        SlurmJob(run, JobRecord.read(run), 0).cancel()
    assert raised.value.exit_code == 5
    assert run.read("cancel") is None
    assert may_begin(run)
    slurm.squeue("12|FAILED|1|2|NonZeroExitCode")
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is JobState.FAILED


def test_cancel_whose_answer_was_lost_counts_if_slurm_ends_the_job(slurm, tmp_path):
    """The answer of scancel timed out, but the controller has read the request."""
    slurm.squeue("12|RUNNING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    timeout = "scancel: error: Socket timed out on send/recv operation"
    hook = "[ -f again ] && echo '12|CANCELLED|1|2|None' > squeue.out; touch again"
    slurm.answer("squeue", "12|COMPLETING|1|2|None\n", hook=hook)
    slurm.answer("scancel", error=timeout)
    SlurmJob(run, JobRecord.read(run), 0).cancel()
    assert run.read("cancel") is not None
    assert SlurmJob(run, JobRecord.read(run), 0).status().reason == "cancelled by you"


def test_second_cancel_that_fails_does_not_undo_the_first(slurm, tmp_path):
    """SLURM has taken the first one, and ends the job."""
    slurm.squeue("12|RUNNING")
    slurm.answer("scancel", error=DOWN)
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    run.write("cancel", {"requested_at": 1})
    with pytest.raises(UnreachableError):
        SlurmJob(run, JobRecord.read(run), 0).cancel()
    assert run.read("cancel") is not None


def test_full_disk_does_not_keep_a_job_alive(slurm, tmp_path, monkeypatch):
    """What cannot be written down is done all the same; SLURM says that the job was cancelled."""

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    slurm.squeue("12|RUNNING")
    slurm.answer("scancel", hook="echo '12|CANCELLED|1|2|None' > squeue.out")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    monkeypatch.setattr(Run, "write", refuse)
    SlurmJob(run, JobRecord.read(run), 0).cancel()
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is JobState.CANCELLED


# Jobs that SLURM has forgotten

ELEMENT = {"job_id": "29_1"}


@pytest.mark.parametrize("listed", ["squeue", "sacct"])
def test_element_of_an_array_that_was_cancelled_in_the_queue(slurm, tmp_path, listed):
    """SLURM keeps nothing of it, as 22.05 shows: neither command lists 29_1, only its siblings."""
    slurm.squeue("29_0|PENDING|N/A|N/A|JobHeldUser" if listed == "squeue" else "7|RUNNING")
    slurm.answer("sacct", "29_[0,2]|PENDING|Unknown\n" if listed == "sacct" else "")
    run = make_run(make_plan(tmp_path), {**ELEMENT, "submitted_at": time.time() - 5})
    told = SlurmJob(run, JobRecord.read(run), 0).status()
    assert (told.state, told.cause) == (JobState.CANCELLED, Cause.CANCEL)
    assert told.reason == "cancelled before it started"
    slurm.squeue()
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is JobState.CANCELLED


@pytest.mark.parametrize("trace", ["attempt", "log", "nothing known"])
def test_element_that_may_have_run_is_not_called_cancelled(slurm, tmp_path, trace):
    """Its attempt or its log says that it began, or nothing says that this SLURM ever had it."""
    slurm.squeue("7|RUNNING" if trace == "nothing known" else "29_0|RUNNING")
    log = tmp_path / "29_1_0_log.out"
    job = {**ELEMENT, "submitted_at": 5, "output": str(log), "cluster": "another"}
    run = make_run(make_plan(tmp_path), job)
    if trace == "attempt":
        begin_attempt(run)
    elif trace == "log":
        log.touch()
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is JobState.UNKNOWN


@pytest.mark.parametrize(
    ("cluster", "state"), [("lab", JobState.CANCELLED), ("other", JobState.UNKNOWN)]
)
def test_job_without_log_that_its_own_cluster_has_forgotten(slurm, tmp_path, cluster, state):
    """Without accounting: SLURM forgets after MinJobAge, but a job that began has a log."""
    command._config.cache_clear()
    slurm.squeue()
    slurm.answer("sacct", error=NO_ACCOUNTING)
    slurm.answer("scontrol", f"Configuration data\nClusterName             = {cluster}\n")
    job = {"submitted_at": 5, "output": str(tmp_path / "12_0_log.out"), "cluster": "lab"}
    run = make_run(make_plan(tmp_path), {"job_id": "12", **job})
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is state
    command._config.cache_clear()


def test_cancel_asks_anew_about_the_jobs_that_waited(slurm, tmp_path):
    """They end when SLURM looks at them next; an old answer would show them in the queue."""
    slurm.squeue("12|RUNNING", "13|PENDING|N/A|N/A|Dependency")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    hook = "echo '12|CANCELLED|1|2|None\n13|PENDING|N/A|N/A|Dependency' > squeue.out"
    slurm.answer("scancel", hook=hook)
    SlurmJob(run, JobRecord.read(run), 3600).cancel()
    slurm.squeue("13|CANCELLED|1|2|DependencyNeverSatisfied")
    answer = ask("13", poll_seconds=3600)
    assert answer.state is JobState.CANCELLED
    assert "a job it waited for did not end as required" in answer.reason


def test_cancel_of_a_job_that_slurm_has_forgotten_is_no_error(slurm, tmp_path):
    """It cannot run any more, and the run is then known as cancelled."""
    slurm.squeue()
    slurm.answer("sacct", error=NO_ACCOUNTING)
    slurm.answer("scancel", error="scancel: error: Kill job error: Invalid job id specified")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "submitted_at": 5})
    job = SlurmJob(run, JobRecord.read(run), 30)
    job.cancel()
    assert job.status().state is JobState.CANCELLED


def test_cancel_reaches_the_successor_too(slurm, tmp_path):
    """A job that hands over while it is cancelled: the one that it has submitted goes as well."""
    slurm.squeue("12|RUNNING", "13|PENDING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    record = {**run.read("job"), "job_id": "13"}
    (slurm.directory / "successor").write_text(json.dumps(record))
    hook = f"""cp successor {run.launch_directory}/job.json
[ $1 = 12 ] && other='13|PENDING' || other='13|CANCELLED'
for job in '12|CANCELLED' "$other"; do echo "$job|1|2|None"; done > squeue.out"""
    slurm.answer("scancel", hook=hook)
    SlurmJob(run, JobRecord.read(run), 30).cancel()
    assert slurm.calls("scancel") == ["scancel 12", "scancel 13"]


def test_step_of_the_users_own_job_is_cancelled_alone(slurm, tmp_path):
    """The allocation, perhaps an interactive one, stays; the step may save."""
    slurm.squeue("12|RUNNING")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "step_id": "0"})
    slurm.answer("scancel", hook="echo > squeue.out")
    SlurmJob(run, JobRecord.read(run), 30).cancel()
    assert slurm.calls("scancel") == ["scancel --signal=TERM 12.0"]
    assert "--steps=12.0" in slurm.calls("squeue")[-1]


def test_cancelled_step_is_over_although_its_job_is_queued_again(slurm, tmp_path):
    """The user's batch script may do other things then; the run stays cancelled until resumed."""
    slurm.squeue("12|PENDING|N/A|N/A|BeginTime")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "step_id": "0"})
    assert SlurmJob(run, JobRecord.read(run), 0).status().state is JobState.PENDING
    run.write("cancel", {"requested_at": time.time()})
    told = SlurmJob(run, JobRecord.read(run), 0).status()
    assert (told.state, told.cause) == (JobState.CANCELLED, Cause.CANCEL)
    whole = make_run(make_plan(tmp_path), {"job_id": "12"})
    whole.write("cancel", {"requested_at": time.time()})
    assert SlurmJob(whole, JobRecord.read(whole), 0).status().state is JobState.PENDING
