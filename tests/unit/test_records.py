"""Every JSON file of a run has one class, which reads old files and names what is damaged."""

import dataclasses
import json

import pytest

from getiaction_launch.backends.ray.placement import Placement
from getiaction_launch.backends.ray_on_slurm.ray_node import RayRecord
from getiaction_launch.errors import RecordError
from getiaction_launch.run.job_end import JobEnd
from getiaction_launch.run.node_records import NodeEnd, WorkerError
from getiaction_launch.run.records import (
    AttemptRecord,
    BackendRecord,
    Cancel,
    Done,
    JobRecord,
    Progress,
    read_attempts,
)
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

RECORDS = [
    JobRecord(BackendRecord("a.B", {"x": 1}), "12", 1.5, ["11"], "0", "/log", {"pid": 3}),
    JobRecord(job_id="12"),
    Progress("training", 1, 7, 2, 90, 3, 0.5, {"loss": 0.25}, {"val": 0.5}, 5, "full", "no", True),
    Progress(),
    Done("finished", step=9, finished_at=2.5),
    Cancel(3.5),
    JobEnd("12", JobState.FAILED, Cause.CRASH, "it failed", 4.5),
    JobEnd("12", JobState.SUCCEEDED),
    Placement("asks for 2 nodes"),
    RayRecord(0, 6379, is_complete=True),
]


@pytest.fixture
def run(tmp_path):
    """A run whose directory is claimed."""
    return Run.claim(str(tmp_path), "act")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(run, record):
    """What is written is plain JSON with a schema version; reading gives an equal object."""
    assert type(record).read(run) is None
    record.write(run)
    content = json.loads((run.launch_directory / f"{record.NAME}.json").read_text())
    assert content["schema_version"] == 1
    assert type(record).read(run) == record
    type(record).remove(run)
    assert type(record).read(run) is None


def test_attempts_are_read_in_their_order(run):
    """An attempt that runs has no end; one that has ended says why."""
    ended = AttemptRecord(
        0, "k", "n1:2", "c.ckpt", 3, 1.0, JobState.FAILED, Cause.CRASH, "no", True, 2.0, 5
    )
    runs = AttemptRecord(1, "l", "n1:3", None, 5, 3.0)
    for record in (ended, runs):
        record.write(run)
    assert read_attempts(run) == [ended, runs]
    assert json.loads((run.launch_directory / "attempt_1.json").read_text())["cause"] is None


def test_ends_of_nodes_and_workers_lie_with_the_logs(run):
    """A node's end has its own file; of several errors of one rank the first stays."""
    run.make_log_directory(0)
    NodeEnd(-9, "its Ray has died").write(run, 0, 1)
    assert NodeEnd.read(run, 0, 1) == NodeEnd(-9, "its Ray has died")
    assert NodeEnd.read(run, 0, 0) is None
    first = WorkerError(1, 0, "lab7", "ValueError", "no gripper")
    run.write_error(0, first)
    run.write_error(0, dataclasses.replace(first, message="later"))
    assert run.first_error(0) == first


@pytest.mark.parametrize(
    ("record", "content", "words"),
    [
        (JobRecord, {"job_id": 12}, "job.json: job_id=12 must be text"),
        (JobRecord, {"backend": "x"}, "job.json: backend='x' must be a mapping"),
        (JobRecord, {"backend": {"class_path": None}}, "backend.class_path=None must be text"),
        (Progress, [1, 2], "progress.json: [1, 2] must be a mapping"),
        (Progress, {"step": "7"}, "progress.json: step='7' must be a whole number"),
        (Progress, {"metrics": {"loss": "low"}}, "metrics.loss='low' must be a number"),
        (Done, {"finished_at": []}, "done.json: finished_at=[] must be a number"),
        (
            JobEnd,
            {"job_id": "1", "state": "NEW"},
            "job_end.json: state='NEW' must be one of",
        ),
        (JobEnd, {"state": "FAILED"}, "job_end.json: the key job_id is missing"),
    ],
)
def test_damaged_record_is_named_with_file_and_key(run, record, content, words):
    """The error names the file, the key, its value, and what it should be."""
    path = run.launch_directory / f"{record.NAME}.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError) as error:
        record.read(run)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_text_that_is_not_json_is_named(run):
    """So is a file that was cut off."""
    (run.launch_directory / "cancel.json").write_text('{"requested')
    with pytest.raises(RecordError, match=r"cancel\.json is not JSON"):
        Cancel.read(run)


def test_details_of_a_job_stand_next_to_its_other_keys(run):
    """So they always did, and SLURM's output had no key of its own at first."""
    process = {"host": "lab7", "pid": 3, "started_after_boot_seconds": 5.5}
    run.write("job", {"job_id": "12_1", "job_dir": "/jobs", "process": process, "is_inside": True})
    record = JobRecord.read(run)
    assert record.details == {"job_dir": "/jobs", "process": process, "is_inside": True}
    assert record.output == "/jobs/12_1_0_log.out"
    record.write(run)
    assert run.read("job")["process"] == process


def test_progress_keeps_the_keys_that_were_reported(run):
    """Whoever reads JSON finds them, also where the value is null, false or empty."""
    progress = Progress().updated(step=3, total_steps=None, metrics={})
    progress = progress.updated(is_writing_checkpoint=False, step=4)
    assert progress.content().keys() == {"step", "total_steps", "metrics", "is_writing_checkpoint"}
    progress.write(run)
    assert Progress.read(run).content() == progress.content()
    assert len(progress.updated(step=5).reported) == len(progress.reported)
