"""A look at a run on S3 is one request, and never says what its records and its job do not."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from clusters.proxy import Proxy
from clusters.s3 import S3

from getiaction_launch.backends.backend import LOCAL
from getiaction_launch.backends.starting import write_job
from getiaction_launch.cli.main import main
from getiaction_launch.launch.attempts import read_all_attempts
from getiaction_launch.launch.listing.below import OF_ROOT, runs_below
from getiaction_launch.launch.listing.entry import Entry, read_entries
from getiaction_launch.launch.status import Watched, read_status
from getiaction_launch.mirror.ledger import Head
from getiaction_launch.mirror.uploading.lanes import Checkpoints, Files
from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.beats.records import NodeBeats, RankBeat, Stall
from getiaction_launch.run.checkpoint import commit, partial_path
from getiaction_launch.run.reading.summary import Look, forget_summary, look_at
from getiaction_launch.run.records import (
    AttemptRecord,
    BackendRecord,
    Cancel,
    Done,
    Progress,
    read_attempts,
)
from getiaction_launch.run.restart import reopen
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import file_system

POINT = SweepPoint("sweep-1a2b3c4d", {"lr": "1e-3"})


@pytest.fixture
def root(
    _moto: S3,
    recorder: Proxy,  # noqa: ARG001 - clients reach the server through it
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    """A root on S3 that no other test uses."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    return f"{_moto.make_bucket()}/experiments"


@pytest.fixture(autouse=True)
def lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the processes of jobs live, by this machine's process table."""
    answer = [True]
    monkeypatch.setattr("getiaction_launch.backends.process.is_process", lambda *_: answer[0])
    return answer


def prepare(root: str, version: int) -> Run:
    """A run that was not submitted yet."""
    run = Run.at(f"{root}/act/version_{version}")
    plan = Plan("act", root, ["--x"], [], Topology(1, 2, 0), "/", sweep=POINT)
    run.write("plan", plan.to_json())
    return run


def begin(root: str, version: int) -> Attempt:
    """A run whose job process is on this machine, and has begun an attempt."""
    run = prepare(root, version)
    write_job(run, BackendRecord(LOCAL))
    return train(run)


def train(run: Run) -> Attempt:
    """Begin an attempt, and report what its mirror does."""
    attempt = Attempt.begin(run, f"key {time.monotonic_ns()}", "host", 1)
    run.make_log_directory(attempt.number)
    for place in (run.local, run):  # the mirror uploads it with the other files
        NodeBeats(attempt.number, 0, "node-a", 1.0, [RankBeat(0)]).write(place)
    Progress(phase="training", step=7, metrics={"train/loss": 0.5}).write(run.local)
    Files(run, {}).look()
    return attempt


def end(attempt: Attempt, state: JobState = JobState.SUCCEEDED) -> Run:
    """End a run."""
    cause = None if state is JobState.SUCCEEDED else Cause.CRASH
    attempt.end(Ending(state, cause, "it ended"))
    return attempt.run


def methods(requests: list[str]) -> list[str]:
    """The methods of requests."""
    return [request.partition(" ")[0] for request in requests]


def ls(root: str) -> list[Entry]:
    """Read what `ls` shows."""
    return read_entries(runs_below(root, "*", OF_ROOT))


def by_name(entries: list[Entry]) -> list[Entry]:
    """Sort them: those of one second come in any order."""
    return sorted(entries, key=lambda entry: entry.found.run.name)


def shown(entries: list[Entry]) -> list[Entry]:
    """The same, without how it was found out."""
    return [
        replace(
            entry,
            found=replace(entry.found, run=Run(entry.found.run.directory)),
            status=replace(entry.status, summary=None),
            elapsed_seconds=round(entry.elapsed_seconds or 0, -2),
        )
        for entry in entries
    ]


def test_ls_sends_one_request_for_each_run(root, sent):
    """And one for each name and one for the root, whether a run has ended or is running."""
    numbers = []
    for version in range(4):
        attempt = begin(root, version)
        if version < 3:
            end(attempt, JobState.FAILED if version else JobState.SUCCEEDED)
        numbers.append(len(sent(ls, root)))
    assert numbers == [3, 4, 5, 6]


def test_ls_shows_the_same_of_runs_without_a_summary(root, sent):
    """Those of earlier versions are listed with a few requests each."""
    end(begin(root, 0))
    end(begin(root, 1), JobState.FAILED)
    begin(root, 2)
    before = by_name(ls(root))
    assert [entry.state for entry in before] == ["SUCCEEDED", "FAILED", "RUNNING"]
    assert all(entry.status.summary for entry in before)
    assert before[2].sweep == POINT
    for entry in before:
        forget_summary(Run(entry.found.run.directory))
    assert len(sent(ls, root)) <= 2 + 6 * 3
    assert shown(by_name(ls(root))) == shown(before)


def test_status_of_a_running_run_is_three_requests(root, sent, capsys):
    """With the checkpoint, the ranks and the code, all from one record but the plan."""
    run = begin(root, 0).run
    path = partial_path(run.local, 0, 5)
    path.parent.mkdir(parents=True)
    path.write_text("weights")
    commit(run.local, attempt=0, fit=0, step=5, epoch=0, reason="period", saved_at=time.time())
    checkpoints = Checkpoints(run)
    checkpoints.look()
    Files(run, {}, checkpoints).look()
    requests = sent(main, ["status", str(run.directory)])
    assert sorted(methods(requests)) == ["GET", "GET", "GET"]
    said = capsys.readouterr().out
    assert "RUNNING  step 7" in said
    assert "checkpoint  step 5" in said
    assert "node-a" in said
    assert len(sent(main, ["status", "--root", root, "@last"])) == 5


def test_status_of_a_finished_run_is_two_requests(root, sent, capsys):
    """Also of a program that has reported no checkpoint: it was looked for at the end."""
    kept, none = (begin(root, version).run for version in range(2))
    (kept.directory / "checkpoints/last.ckpt").write_text("weights")
    for run in (kept, none):
        end(Attempt.read(run, 0))
        assert len(sent(main, ["status", str(run.directory)])) == 2
        assert ("checkpoints/last.ckpt  (last)" in capsys.readouterr().out) == (run is kept)
    assert len(sent(main, ["status", "--root", root, "@last"])) == 4


def test_a_look_while_waiting_is_one_request(root, sent):
    """Of a run that trains, and of one that waits for its first nodes."""
    run = begin(root, 0).run
    waiting = Run.at(f"{root}/act/version_1")
    waiting.write("plan", run.read("plan"))
    write_job(waiting, BackendRecord(LOCAL))
    for each, state in ((run, JobState.RUNNING), (waiting, JobState.PENDING)):
        watched = Watched(each)
        assert watched.read_status().state is state
        assert [len(sent(watched.read_status)) for _ in range(2)] == [1, 1]
    attempt = train(waiting)
    assert watched.read_status().state is JobState.RUNNING
    assert len(sent(watched.read_status)) == 1
    end(attempt)
    assert watched.read_status().state is JobState.SUCCEEDED


def test_a_run_whose_job_is_gone_does_not_live(root, lives):
    """Although its summary could not say so, as its machine was lost or storage failed."""
    killed, finished, cancelled = (begin(root, version).run for version in range(3))
    Done(finished_at=1.0).write(finished)
    Cancel(1.0).write(cancelled)
    lives[0] = False
    assert all(isinstance(look_at(run), Look) for run in (killed, finished, cancelled))
    assert read_status(killed).state is JobState.FAILED
    assert read_status(finished).state is JobState.SUCCEEDED
    assert read_status(cancelled).state is JobState.CANCELLED


def test_a_resumed_run_has_not_ended(root):
    """From the moment in which it is resumed until its next attempt begins, and behind that."""
    run = end(begin(root, 0), JobState.FAILED)
    assert read_status(run).state is JobState.FAILED
    reopen(run)
    write_job(run, BackendRecord(LOCAL))
    assert read_status(run).state is JobState.RUNNING
    train(run)
    status = read_status(run)
    assert (status.state, status.attempts) == (JobState.RUNNING, 2)
    assert list(status.records) == read_attempts(run)


def test_a_look_does_not_grow_with_the_number_of_attempts(root, sent, capsys, monkeypatch):
    """The first attempt and the newest ones are in the summary, and `status` reads the others.

    One whose record is damaged is left out, and the numbers stay.
    """
    monkeypatch.setattr("getiaction_launch.run.reading.summary.NEWEST_ATTEMPTS", 2)
    run, sizes = end(begin(root, 0), JobState.FAILED), []
    for number in range(1, 6):
        reopen(run)
        attempt = train(run)
        replace(AttemptRecord.read(run, number), first_step=number).write(run)
        end(attempt, JobState.FAILED)
        sizes.append(len((run.launch_directory / "progress.json").read_bytes()))
    assert abs(sizes[-1] - sizes[1]) < 100
    assert len(sent(ls, root)) == 3
    status = read_status(run)
    assert (status.state, status.attempts) == (JobState.FAILED, 6)
    assert [record.number for record in status.records] == [0, 4, 5]
    (entry,) = ls(root)
    forget_summary(run)
    assert shown(ls(root))[0].elapsed_seconds == shown([entry])[0].elapsed_seconds
    assert read_all_attempts(status) == read_attempts(run)
    reopen(run)
    train(run)
    assert main(["status", "--json", str(run.directory)]) == 0
    shown_run = json.loads(capsys.readouterr().out)
    assert (shown_run["attempt"], len(shown_run["places"])) == (6, 7)
    (run.launch_directory / "attempt_2.json").write_text("{")
    assert main(["status", "--json", str(run.directory)]) == 0
    shown_run = json.loads(capsys.readouterr().out)
    assert shown_run["attempt"] == 6
    assert [place["attempt"] for place in shown_run["places"]] == [0, 1, 3, 4, 5, 6]


def test_a_run_that_begins_before_its_job_is_recorded_is_running(root):
    """As soon as job.json is there, although the summary was written before it."""
    run = prepare(root, 0)
    train(run)
    assert "job" not in look_at(run).summary.records
    assert read_status(run).reason == "it was not submitted yet"
    write_job(run, BackendRecord(LOCAL))
    watched = Watched(run)
    assert [read_status(run).state, watched.read_status().state] == [JobState.RUNNING] * 2
    assert [entry.state for entry in ls(root)] == ["RUNNING"]


def test_a_run_without_a_job_is_read_again_before_it_is_said_to_wait(root):
    """Its job may have been recorded since it was listed."""
    run = prepare(root, 0)
    seen = look_at(run)
    write_job(run, BackendRecord(LOCAL))
    assert read_status(seen).reason != "it was not submitted yet"


def test_a_run_without_progress_has_none_when_its_summary_is_forgotten(root):
    """Rather than an empty one; what was reported stays."""
    run = prepare(root, 0)
    Attempt.begin(run, "key", "host", 1)
    forget_summary(run)
    assert run.read("progress") is None
    assert Progress.read(run) is None
    trained = begin(root, 1).run
    forget_summary(trained)
    assert Progress.read(trained).step == 7


def test_a_summary_that_is_of_another_run_or_damaged_does_not_count(root):
    """A copy of a run, and what a stranger wrote, are judged by their records."""
    run = end(begin(root, 0))
    content = run.read("progress")
    copy = Run.at(f"{root}/act/version_1")
    copy.write("plan", {})
    copy.write("progress", content)
    assert read_status(copy).state is JobState.PENDING
    for damage in ("x", {"directory": str(run.directory)}, {**content["summary"], "records": 1}):
        run.write("progress", {**content, "summary": damage})
        assert read_status(run).state is JobState.SUCCEEDED
    (run.launch_directory / "progress.json").write_text("{")
    Progress(step=1).write(run.local)
    Files(run, {}).look()
    assert Progress.read(run).step == 1
    (run.launch_directory / "progress.json").write_text("{")
    (run.launch_directory / "job.json").write_text("{")
    reopen(run)
    end(Attempt.read(run, 0), JobState.FAILED)
    assert read_attempts(run)[0].state is JobState.FAILED


def test_a_run_that_ends_after_it_was_listed_has_finished(root, monkeypatch):
    """done.json is written before the end of the attempt, and read after it."""
    attempt = begin(root, 0)
    forget_summary(attempt.run)
    read = Run.read

    def late(run: Run, record: str) -> dict[str, object] | None:
        if record == "attempt_0" and attempt in waiting:
            waiting.remove(attempt)
            Done(finished_at=1.0).write(attempt.run)
            record_of = read_attempts(Run(run.directory))[0]
            replace(record_of, state=JobState.SUCCEEDED, ended_at=2.0).write(attempt.run)
        return read(run, record)

    waiting = [attempt]
    monkeypatch.setattr(Run, "read", late)
    assert read_status(attempt.run).state is JobState.SUCCEEDED


def test_a_stall_is_uploaded_although_there_is_no_progress(root, monkeypatch):
    """With the progress of before, by the mirror of rank 0's node."""
    run = begin(root, 0).run
    monkeypatch.setattr("getiaction_launch.mirror.uploading.lanes.RECORD_SECONDS", 0)
    files = Files(run, {})
    files.look()
    NodeBeats(0, 0, "node-b", 1.0, [RankBeat(0)], Stall(1.0, reason="rank 1 hangs")).write(
        run.local
    )
    files.look()
    (node,) = read_status(run).beats
    assert node.stall == Stall(1.0, reason="rank 1 hangs")
    assert asdict(look_at(run).summary)["beats"][0]["host"] == "node-b"


def test_only_the_machine_of_rank_0_uploads_the_progress(root):
    """One that had rank 0 in the attempt before still has the progress of then."""
    run = begin(root, 0).run
    Head(attempt=0, prepared=1).write(run.local)
    Progress(phase="training", step=99).write(run.local)
    Files(run, {}).look()
    assert Progress.read(run).step == 7
    Head(attempt=1, prepared=1).write(run.local)
    Files(run, {}).look()
    assert Progress.read(run).step == 99


def test_a_look_at_storage_that_fails_is_sent_once(root, sent, monkeypatch):
    """The run is UNKNOWN then, and the next look finds it again."""
    watched = Watched(begin(root, 0).run)
    assert watched.read_status().state is JobState.RUNNING
    fs, _ = file_system(watched.run.directory)
    failures = []

    def fail(*_: object, **__: object) -> bytes:
        failures.append(1)
        raise PermissionError("The provided token has expired")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "cat_file", fail)
        status = watched.read_status()
    assert (status.state, len(failures)) == (JobState.UNKNOWN, 1)
    assert "expired" in status.reason
    assert [watched.read_status().state, len(sent(watched.read_status))] == [JobState.RUNNING, 1]
