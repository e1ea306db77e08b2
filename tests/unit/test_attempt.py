"""How attempts are counted, agreed on, judged and allowed again."""

import dataclasses
import threading
import time

import pytest

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan, Restarts, Topology
from getiaction_launch.run import attempt as attempts
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt, Ending, read_end
from getiaction_launch.run.beats import NodeBeats, RankBeat
from getiaction_launch.run.checkpoint import Checkpoint, commit, partial_path
from getiaction_launch.run.finished import commit_finished, partial_of
from getiaction_launch.run.node_records import STALLED, TIMED_OUT, WORKER_DIED, WorkerError
from getiaction_launch.run.records import read_attempts
from getiaction_launch.run.repeating import attempts as repeating
from getiaction_launch.run.restart import allow_another, judge, may_begin, reopen
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, Cause, JobState

CRASHED = Ending(JobState.FAILED, Cause.CRASH, "ValueError")
WARNED = Ending(JobState.INTERRUPTED, Cause.TIME_LIMIT, "its time limit was near")


@pytest.fixture
def run(tmp_path):
    """A run that may crash once, lose one node and be interrupted at will."""
    run = Run.claim(str(tmp_path), "act")
    restarts = Restarts(crashes=1, node_failures=1, interruptions=None)
    plan = Plan("act", str(tmp_path), [], ["t.py"], Topology(2, 1, 0), "/", restarts=restarts)
    run.write("plan", plan.to_json())
    return run


def begin(run, key="1.0.0"):
    """Open an attempt."""
    return Attempt.begin(run, key, "n1", 20001)


def test_other_nodes_join_the_attempt_of_their_own_start(run):
    """A node waits for the record with its key, and takes head and checkpoint from there."""
    begin(run, "1.0.0").end(WARNED)
    later = threading.Timer(0.3, lambda: begin(run, "1.0.1"))
    later.start()
    joined = Attempt.join(run, "1.0.1", limit_seconds=30)
    later.join()
    assert (joined.number, joined.head, joined.resume_from) == (1, "n1:20001", None)
    with pytest.raises(TimeoutError, match="do all nodes see"):
        Attempt.join(run, "1.0.2", limit_seconds=0.1)
    with pytest.raises(TimeoutError):  # of this test too, if nobody looked
        Attempt.join(run, "1.0.2", limit_seconds=600, is_stopped=lambda: True)


def test_attempt_that_ended_without_a_word_is_a_node_failure(run):
    """Nobody could write how it ended: that is found out before the next one, and is counted."""
    assert may_begin(run)
    for is_allowed in (True, False):
        begin(run)
        assert may_begin(run) is is_allowed
    first, second = read_attempts(run)
    assert (first.state, first.cause, first.goes_on) == ("FAILED", "node failure", True)
    assert (second.cause, second.goes_on) == ("node failure", False)
    reopen(run)
    assert may_begin(run)


def test_nothing_begins_after_the_end(run):
    """Schedulers start jobs again by themselves: not a run that has ended, or is to be ended."""
    begin(run).end(CRASHED)
    assert not may_begin(run)
    begin(run).end(dataclasses.replace(CRASHED, goes_on=True))
    assert may_begin(run)
    run.write("cancel", {})
    assert not may_begin(run)
    run.forget("cancel")
    run.write("done", {})
    assert not may_begin(run)


def test_success_writes_done_with_the_last_progress(run):
    """``done.json`` holds what rank 0 told last."""
    run.write("progress", {"step": 7})
    begin(run).end(Ending(JobState.SUCCEEDED))
    assert run.read("done")["step"] == 7
    assert read_attempts(run)[0].last_step == 7


def error(rank=1, *, is_consequence=False, name="ValueError"):
    """A worker's last words."""
    return WorkerError(rank, rank, f"n{rank}", name, "no gripper", is_consequence=is_consequence)


@pytest.mark.parametrize(
    ("codes", "told", "stopped_by", "state", "cause"),
    [
        ([0, 0], None, None, "SUCCEEDED", None),
        ([0, 1], error(), None, "FAILED", "crash"),
        ([75, 1], error(), Cause.STOP, "FAILED", "crash"),
        ([75, 1], error(is_consequence=True), Cause.PREEMPTION, "INTERRUPTED", "preemption"),
        ([75, 1], error(is_consequence=True), None, "FAILED", "crash"),
        ([75, None], error(is_consequence=True), None, "FAILED", "node failure"),
        ([0, None], None, Cause.CANCEL, "INTERRUPTED", "cancel"),
        ([75, 75], None, Cause.TIME_LIMIT, "INTERRUPTED", "time limit"),
        ([75, 75], None, None, "INTERRUPTED", "stop"),
        ([1, 1], error(name="OutOfMemory"), None, "FAILED", "out of memory"),
        ([75, -9], None, None, "FAILED", "node failure"),
        ([75, -9], error(), None, "FAILED", "crash"),
        ([1, 1], None, None, "FAILED", "crash"),
        ([75, None], None, Cause.NODE_FAILURE, "FAILED", "node failure"),
        ([75, 75], error(is_consequence=True), Cause.NODE_FAILURE, "FAILED", "node failure"),
        ([75, 1], error(), Cause.NODE_FAILURE, "FAILED", "crash"),
        ([75, None], None, Cause.OUT_OF_MEMORY, "FAILED", "out of memory"),
        ([75, 1], error(name="WorkerDied"), Cause.OUT_OF_MEMORY, "FAILED", "out of memory"),
        ([75, 1], error(name="WorkerDied"), None, "FAILED", "crash"),
        ([75, 1], error(is_consequence=True), Cause.OUT_OF_MEMORY, "FAILED", "out of memory"),
    ],
)
def test_judgement(run, codes, told, stopped_by, state, cause):  # noqa: PLR0917 - a table
    """A rank's own error outweighs the echoes that it causes, and every signal that follows."""
    begin(run)
    if told:
        run.write_error(0, told)
    ending = judge(run, 0, codes, stopped_by)
    assert (ending.state, ending.cause) == (state, cause)
    assert not ending.goes_on


def test_cancelled_is_cancelled_however_it_ended(run):
    """What the user asked for comes before what the workers made of it."""
    begin(run)
    run.write("cancel", {})
    run.write_error(0, error())
    assert judge(run, 0, [EXIT_INTERRUPTED, EXIT_FAILED]).state is JobState.CANCELLED
    assert not allow_another(run, Ending(JobState.CANCELLED, Cause.CANCEL)).goes_on


def test_each_cause_has_its_own_budget(run):
    """One crash and one lost node are allowed; the second crash is the end, and says so."""
    lost = Ending(JobState.FAILED, Cause.NODE_FAILURE, "n2 is gone")
    for ending, goes_on in ((CRASHED, True), (lost, True), (CRASHED, False)):
        attempt = begin(run)
        allowed = allow_another(run, ending)
        assert allowed.goes_on is goes_on
        attempt.end(allowed)
    assert allowed.reason == "ValueError (not restarted: restarts.crashes=1 is used up)"


def test_endless_requeues_without_a_step_are_stopped(run, monkeypatch):
    """The time limit twice in a row from the same step: a third attempt would get no further."""
    checkpoint = None
    for module in (attempts, repeating):
        monkeypatch.setattr(module, "newest", lambda _run: checkpoint)
    run.write("progress", {"phase": "starting"})
    for step, goes_on in ((None, True), (50, True), (50, True), (50, False)):
        attempt = begin(run)
        if step:
            checkpoint = Checkpoint(0, 0, step, 0, "period", 1, time.time(), path=run.directory)
        allowed = allow_another(run, WARNED)
        assert allowed.goes_on is goes_on
        attempt.end(allowed)
    assert "saved no progress" in allowed.reason
    assert allowed.state is JobState.INTERRUPTED


def test_program_that_keeps_its_own_checkpoints_is_judged_by_where_it_begins(run):
    """Twice in a row from the same step means that it does not resume, whatever it saves."""
    for first_step, goes_on in ((1, True), (51, True), (101, True), (101, False)):
        attempt = begin(run)
        progress = {"phase": "training", "first_step": first_step, "step": 120, "is_own": True}
        run.write("progress", progress)
        allowed = allow_another(run, WARNED)
        assert allowed.goes_on is goes_on
        attempt.end(allowed)
    assert [record.first_step for record in read_attempts(run)] == [1, 51, 101, 101]


def test_the_same_hang_without_progress_ends_the_run(run):
    """Twice in a row from the same checkpoint: it would stand still there again."""
    stalled = Ending(JobState.INTERRUPTED, Cause.STALL, "rank 1 waits for a camera")
    for step, goes_on in ((None, True), (50, True), (None, True), (None, False)):
        attempt = begin(run)
        if step:
            save(run, step, attempt.number)
        allowed = allow_another(run, stalled)
        assert allowed.goes_on is goes_on
        attempt.end(allowed)
    assert allowed.state is JobState.FAILED
    assert allowed.cause is Cause.STALL
    assert allowed.reason.startswith("rank 1 waits for a camera (not restarted: two attempts")


def test_a_stall_is_judged_by_its_rank(run):
    """Its node has ended the attempt; the other ranks' errors are only echoes of that."""
    begin(run)
    run.write_error(0, error(0, is_consequence=True, name="RuntimeError"))
    run.write_error(0, WorkerError(1, 1, "n2", STALLED, "rank 1 waits for a camera"))
    ending = judge(run, 0, [EXIT_FAILED, EXIT_FAILED])
    expected = Ending(JobState.INTERRUPTED, Cause.STALL, "rank 1 waits for a camera")
    assert ending == expected


def test_a_collective_that_timed_out_names_who_was_absent(run):
    """Without beats, as of an old run, the rank that waited says what it knows."""
    begin(run)
    run.write_error(0, WorkerError(0, 0, "n1", WORKER_DIED, f"killed by SIGABRT {TIMED_OUT}"))
    ending = judge(run, 0, [EXIT_FAILED, EXIT_INTERRUPTED])
    assert ending.reason.startswith("rank 0 on node 0 (n1): WorkerDied: killed by SIGABRT")
    NodeBeats(0, 0, "n1", ranks=[RankBeat(0, step=4, phase="finished")]).write(run)
    late = [RankBeat(1, step=4, phase="fetching"), RankBeat(2, step=4, phase="backward")]
    NodeBeats(0, 1, "n2", ranks=late).write(run)
    ending = judge(run, 0, [EXIT_FAILED, EXIT_INTERRUPTED])
    assert (ending.state, ending.cause) == (JobState.FAILED, Cause.CRASH)
    absent = "a collective timed out: rank 1 on node 1 (n2) is fetching a batch; the others wait"
    assert ending.reason.startswith(absent)


def save(run, step, attempt, **words):
    """Commit a checkpoint of so many batches."""
    partial = partial_path(run, 0, step)
    partial.parent.mkdir(exist_ok=True)
    partial.write_text("weights")
    about = {"fit": 0, "step": step, "epoch": 0, "reason": "period", "saved_at": time.time()}
    commit(run, attempt=attempt, **about, **words)


def test_progress_is_a_newer_checkpoint_or_a_finished_fit(run):
    """Not the number of steps, which a program need not take; nor a checkpoint of before."""
    run.write("progress", {"phase": "starting"})
    allowed = []
    for number, made in enumerate(("step", "step", "fit", None, None)):
        attempt = begin(run)
        if made == "step":
            save(run, 0, number)
        elif made == "fit":
            path = partial_of(run, 0)
            path.parent.mkdir(parents=True)
            path.write_text("end")
            words = {"program": "p", "step": 0, "epoch": 0, "saved_at": 1.0, "is_kept": True}
            commit_finished(run, 0, attempt=number, **words)
        ending = allow_another(run, WARNED)
        allowed.append(ending.goes_on)
        attempt.end(ending)
    assert allowed == [True, True, True, True, False]


def test_an_epoch_that_begins_anew_twice_is_the_end(run):
    """Its loader does not resume: a third start would end as the two before."""
    run.write("progress", {"phase": "starting"})
    for number, goes_on in enumerate((True, True, False)):
        attempt = begin(run)
        save(run, 3 * number + 3, number, restarts=number)
        allowed = allow_another(run, WARNED)
        assert allowed.goes_on is goes_on
        attempt.end(allowed)
    assert "epoch 0 was begun anew 2 times and not finished" in allowed.reason
    assert "state_dict()" in allowed.reason


def test_script_that_tells_no_progress_may_be_interrupted_for_ever(run):
    """It may keep its state itself."""
    for _ in range(4):
        attempt = begin(run)
        allowed = allow_another(run, WARNED)
        attempt.end(allowed)
    assert allowed.goes_on


def test_reopened_run_goes_on_and_is_no_longer_cancelled(run):
    """``resume`` after the end, also after a cancel."""
    begin(run).end(Ending(JobState.CANCELLED, Cause.CANCEL))
    run.write("cancel", {})
    reopen(run)
    assert read_attempts(run)[0].goes_on
    assert run.read("cancel") is None


def test_run_that_ends_while_it_is_looked_at_is_never_called_failed(run, monkeypatch):
    """done.json is written before the attempt's end; who reads in between must not miss it."""
    attempt, read = begin(run), attempts.read_attempts

    def end_first(looked_at):
        records = read(looked_at)
        attempt.end(Ending(JobState.SUCCEEDED))
        return records if records[-1].ended_at else read(looked_at)

    monkeypatch.setattr(attempts, "read_attempts", end_first)
    assert read_end(run).ending.state is JobState.SUCCEEDED


def test_success_is_recorded_although_the_progress_is_damaged(run):
    """How a run ended counts more than how far it said it was."""
    attempt = begin(run)
    (run.launch_directory / "progress.json").write_text('{"step": "many"}')
    attempt.end(Ending(JobState.SUCCEEDED))
    assert read_end(run).ending.state is JobState.SUCCEEDED
    run.write("done", {"step": "many"})  # by another program; it is there, which is enough
    assert read_end(run).ending.state is JobState.SUCCEEDED


def test_node_that_does_not_see_its_attempt_does_not_train_anew(run):
    """On a file system that lags behind, training from step 0 would be silent damage."""
    with pytest.raises(CheckError, match="does not see attempt 3 of run act/version_0"):
        Attempt.read(run, 3)
