"""The loop of a backend that starts its nodes itself: what follows which end of an attempt."""

import contextlib
import sys
from subprocess import Popen

import pytest

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.node import conductor, deaths, outage
from getiaction_launch.node.conductor import drive
from getiaction_launch.node.sidecar import NodeLostError
from getiaction_launch.plan.plan import Plan, Restarts, Topology
from getiaction_launch.run.records import AttemptRecord, Cancel, read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState


class Node:
    """A process that ends with an exit code, whoever stops it; lost if that is None."""

    def __init__(self, code):
        self.code = code
        end = {"sleeps": "time.sleep(600)", "killed": "os.kill(os.getpid(), 9)"}
        words = f"import os, time, sys; {end.get(code, f'sys.exit({code})')}"
        self.process = Popen([sys.executable, "-c", words])

    def poll(self):
        """The exit code, or the loss."""
        if self.code is None:
            raise NodeLostError("its host does not answer")
        return self.process.poll()

    def stop(self):
        """Nothing: it ends as it does, or sleeps on."""


class Nodes:
    """Nodes that end as each start says; an exception instead is raised by the start."""

    poll_seconds = 0.05

    def __init__(self, starts):
        self.starts, self.placed, self.cleaned, self.nodes = list(starts), 0, [], []
        self.cause = None

    @contextlib.contextmanager
    def place(self):
        """Count how often nodes were asked for."""
        self.placed += 1
        yield self

    def reserve_head(self):
        """An address that nobody listens on."""
        return "127.0.0.1", 20001

    def start(self, attempt):
        """Start what the next start says."""
        del attempt
        codes = self.starts.pop(0)
        if isinstance(codes, Exception):
            raise codes
        self.nodes = [Node(code) for code in codes]
        return self.nodes

    def stop_cause(self):
        """Why the nodes are taken away."""
        return self.cause

    def clean(self, exit_codes):
        """Remember what the nodes left, and leave nothing."""
        self.cleaned.append(list(exit_codes))
        for node in self.nodes:
            node.process.kill()
            node.process.wait()


@pytest.fixture
def run(tmp_path):
    """A run of two nodes that may crash once and lose one node."""
    run = Run.claim(str(tmp_path), "act")
    plan = Plan("act", str(tmp_path), [], ["t.py"], Topology(2, 1, 0), "/", restarts=Restarts(1, 1))
    run.write("plan", plan.to_json())
    return run


def never():
    """Nobody asks for the end."""
    return False


def test_success_ends_the_run(run):
    """All nodes end with 0: one attempt, and done.json."""
    nodes = Nodes([[0, 0]])
    assert drive(run, nodes.place, never).state is JobState.SUCCEEDED
    assert run.read("done") is not None
    assert len(read_attempts(run)) == nodes.placed == 1
    assert drive(run, nodes.place, never) is None  # it has ended


def test_nodes_are_kept_after_a_crash_and_replaced_after_a_loss(run):
    """A crash costs an attempt on the same nodes, a lost node one on others."""
    nodes = Nodes([[0, 1], [0, None], [0, 0]])
    assert drive(run, nodes.place, never).state is JobState.SUCCEEDED
    first, second, third = read_attempts(run)
    assert (first.cause, second.cause, third.cause) == (Cause.CRASH, Cause.NODE_FAILURE, None)
    assert nodes.placed == 2
    assert nodes.cleaned == [[0, 1], [0, None], [0, 0]]


@pytest.mark.parametrize(
    ("kills", "cause"), [([3, 4], Cause.OUT_OF_MEMORY), ([3, 3], Cause.NODE_FAILURE)]
)
def test_node_that_the_kernel_killed_for_memory_is_named(run, monkeypatch, kills, cause):
    """Its own process is gone; the count of this machine's control group says why."""
    counts = iter(2 * kills)
    monkeypatch.setattr(conductor, "count_oom_kills", counts.__next__)
    monkeypatch.setattr(deaths, "count_oom_kills", counts.__next__)
    nodes = Nodes([[0, "killed"], [0, "killed"]])
    ending = drive(run, nodes.place, never)
    assert (ending.state, ending.cause) == (JobState.FAILED, cause)
    assert ("memory limit" in ending.reason) is (cause is Cause.OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(NodeLostError("gone"), Cause.NODE_FAILURE), (CheckError("no such directory"), Cause.CRASH)],
)
def test_nodes_that_cannot_start_cost_an_attempt(run, error, cause):
    """Whose fault it is decides which budget pays."""
    nodes = Nodes([error, error])
    ending = drive(run, nodes.place, never)
    assert (ending.state, ending.cause, ending.goes_on) == (JobState.FAILED, cause, False)
    assert len(read_attempts(run)) == nodes.placed == 2
    assert str(error) in ending.reason


def test_node_that_ignores_the_stop_counts_as_silent(run):
    """Where patience has a limit, a node that does not end is a lost one."""
    nodes = Nodes([[1, "sleeps"], [1, "sleeps"]])
    ending = drive(run, nodes.place, never, patience_seconds=0.5)
    assert nodes.cleaned == [[1, None], [1, None]]
    assert ending.cause is Cause.NODE_FAILURE


def test_no_nodes_in_time_is_the_end(run):
    """The wait for nodes had a limit: the reason stands in an attempt of its own."""

    @contextlib.contextmanager
    def place():
        raise TimeoutError("in 5 s it got no nodes")
        yield

    ending = drive(run, place, never)
    assert (ending.state, ending.reason) == (JobState.FAILED, "in 5 s it got no nodes")
    assert [record.cause for record in read_attempts(run)] == [Cause.NODE_FAILURE]


def test_nodes_that_are_taken_away_are_a_preemption(run):
    """The nodes are stopped, and the next attempt gets others."""
    nodes = Nodes([[75, 75], [0, 0]])
    nodes.cause = Cause.PREEMPTION
    place = nodes.place

    def place_again():
        nodes.cause = Cause.PREEMPTION if nodes.placed == 0 else None
        return place()

    assert drive(run, place_again, never).state is JobState.SUCCEEDED
    assert read_attempts(run)[0].cause is Cause.PREEMPTION
    assert nodes.placed == 2


def test_nothing_begins_once_somebody_has_cancelled(run):
    """Neither a new run, nor one whose last attempt could not say how it ended."""
    Cancel(1.0).write(run)
    assert drive(run, Nodes([]).place, never) is None
    Cancel.remove(run)
    AttemptRecord(0, "k").write(run)
    nodes = Nodes([[0, 0]])
    assert drive(run, nodes.place, never).state is JobState.SUCCEEDED
    assert read_attempts(run)[0].cause is Cause.NODE_FAILURE


def test_only_the_wait_for_nodes_has_a_limit_that_ends_the_run(run):
    """A file system that times out in the middle of an attempt is another matter."""
    nodes = Nodes([[0, 0]])

    def start(attempt):
        raise TimeoutError(f"the disk of attempt {attempt.number} does not answer")

    nodes.start = start
    with pytest.raises(TimeoutError, match="the disk of attempt 0"):
        drive(run, nodes.place, never)
    assert len(read_attempts(run)) == 1


@pytest.mark.parametrize("is_written", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("moment", ["began", "ended"])
def test_storage_that_fails_once_costs_no_attempt(run, monkeypatch, moment, is_written):
    """Neither as an attempt begins nor as it ends, with or without its record being written."""
    monkeypatch.setattr(outage, "PAUSE_SECONDS", 0)
    write, failures = AttemptRecord.write, []

    def write_and_fail(record, run):
        is_now = moment == ("began" if record.ended_at is None else "ended")
        is_first = is_now and record.number not in failures
        if is_written or not is_first:
            write(record, run)
        if is_first:
            failures.append(record.number)
            raise StorageError("attempt.json: Connect timeout.", "See docs/storage.md")

    monkeypatch.setattr(AttemptRecord, "write", write_and_fail)
    nodes = Nodes([[0, 1], NodeLostError("its host does not answer"), [0, 0]])
    assert drive(run, nodes.place, never).state is JobState.SUCCEEDED
    assert failures == [0, 1, 2]
    causes = [record.cause for record in read_attempts(run)]
    assert causes == [Cause.CRASH, Cause.NODE_FAILURE, None]
