"""A job that any shell finds, follows and cancels."""

import dataclasses
import json
import time

import pytest
from fake_slurm import DOWN, NO_ACCOUNTING, ask, make_plan, make_run

from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.errors import (
    UnreachableError,
)
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

pytestmark = pytest.mark.usefixtures("slurm")


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
