"""The rank that the others wait for is found by what each rank does and where it is."""

import pytest

from getiaction_launch.run.beats.oddness import (
    RankState,
    find_absent,
    find_odd,
    has_timed_out,
    states_of,
)
from getiaction_launch.run.beats.records import NodeBeats, RankBeat
from getiaction_launch.run.beats.stacks import (
    Frame,
    NodeStacks,
    RankStacks,
    Thread,
    as_text,
    grouped,
)
from getiaction_launch.run.node_records import WORKER_DIED, WorkerError

TORCH = "/env/lib/python3.11/site-packages/torch"
REDUCE = Frame("all_reduce", f"{TORCH}/distributed/distributed_c10d.py", 9)
ENGINE = Frame("_engine_run_backward", f"{TORCH}/autograd/graph.py", 979)
STEP = Frame("training_step", "/home/me/train.py", 31)
BARRIER = Frame("barrier", f"{TORCH}/distributed/distributed_c10d.py", 5)
FIT = Frame("fit", "/env/lib/python3.11/site-packages/lightning/pytorch/trainer/trainer.py", 1)
MAIN = Frame("<module>", "/home/me/train.py", 60)
LOCK = Frame("wait", "/usr/lib/python3.11/threading.py", 327)


def state(rank, phase, *frames, step=7, is_stopped=False):
    """Return the state of a rank, each on a node of its own."""
    stacks = RankStacks(rank, 1, is_stopped, [Thread("MainThread", list(frames))])
    return RankState(rank, rank, f"n{rank}", step, phase, stacks)


CASES = {
    "a lock in the user's code": (
        [state(0, "backward", ENGINE), state(1, "forward", LOCK, STEP)],
        [1],
        (
            "rank 1 on node 1 (n1) is in its forward pass, at training_step (me/train.py:31); "
            "the other one waits"
        ),
    ),
    "a program without Lightning": (
        [state(0, "starting", LOCK, STEP), state(1, "starting", ENGINE, STEP)],
        [0],
        (
            "rank 0 on node 0 (n0) is outside of the training loop, at training_step "
            "(me/train.py:31); the other one waits"
        ),
    ),
    "a loader, while the others agree": (
        [state(0, "fetching", LOCK, STEP), *(state(n, "waiting", REDUCE) for n in (1, 2))],
        [0],
        (
            "rank 0 on node 0 (n0) is fetching a batch, at training_step (me/train.py:31); "
            "the others wait"
        ),
    ),
    "SIGSTOP in a collective": (
        [state(0, "waiting", REDUCE), state(1, "waiting", REDUCE, is_stopped=True)],
        [1],
        (
            "rank 1 on node 1 (n1) was stopped by a signal (SIGSTOP) while waiting; "
            "the other one waits"
        ),
    ),
    "most are in one collective, one in another": (
        [state(0, "forward", REDUCE, STEP), *(state(n, "backward", ENGINE) for n in (1, 2))],
        [0],
        (
            "ranks wait in different collectives: rank 0 on node 0 (n0) waits in a collective "
            "(all_reduce) while forward, at training_step (me/train.py:31)"
        ),
    ),
    "two are in different collectives": (
        [state(0, "forward", REDUCE, STEP), state(1, "backward", ENGINE)],
        [0, 1],
        (
            "ranks wait in different collectives: rank 0 on node 0 (n0) waits in a collective "
            "(all_reduce) while forward, at training_step (me/train.py:31); rank 1 on node 1 (n1) "
            "waits in a collective while backward, at _engine_run_backward (autograd/graph.py:979)"
        ),
    ),
    "of many collectives, one is called by a hook of the user's own": (
        [
            state(0, "optimizing", REDUCE, FIT, MAIN),
            state(1, "optimizing", REDUCE, STEP, FIT, MAIN),
            state(2, "waiting", BARRIER, FIT, MAIN),
        ],
        [1],
        (
            "ranks wait in different collectives: rank 1 on node 1 (n1) waits in a collective "
            "(all_reduce) while optimizing, at training_step (me/train.py:31)"
        ),
    ),
    "all are in the same collective": (
        [state(n, "backward", ENGINE) for n in (0, 1)],
        [],
        (
            "all ranks wait in the same collective: rank 0 on node 0 (n0) waits in a collective "
            "while backward, at _engine_run_backward (autograd/graph.py:979)"
        ),
    ),
    "on GPUs, most wait for a value": (
        [state(2, "fetching", LOCK), *(state(n, "optimizing", STEP) for n in (0, 1))],
        [2],
        (
            "rank 2 on node 2 (n2) is fetching a batch, at wait (python3.11/threading.py:327); "
            "the others wait"
        ),
    ),
    "nothing is known but the step": (
        [state(0, "forward", step=8), state(1, "forward", step=7)],
        [1],
        "rank 1 on node 1 (n1) is in its forward pass; the other one waits",
    ),
    "a rank alone": (
        [state(0, "saving", STEP)],
        [0],
        "rank 0 on node 0 (n0) is saving a checkpoint, at training_step (me/train.py:31)",
    ),
    "all at one place": (
        [state(0, "forward", STEP), state(1, "forward", STEP)],
        [],
        (
            "all ranks are at the same place: rank 0 on node 0 (n0) is in its forward pass, "
            "at training_step (me/train.py:31)"
        ),
    ),
    "nobody": ([], [], "nothing is known of its ranks"),
}


@pytest.mark.parametrize(("states", "ranks", "reason"), CASES.values(), ids=CASES)
def test_the_odd_rank_is_named(states, ranks, reason):
    """Who has not arrived, who is stopped, who differs, or who is behind; in a sentence."""
    odd = find_odd(states)
    assert (odd.ranks, odd.reason) == (ranks, reason)


def test_many_odd_ranks_are_counted():
    """The sentence stays short."""
    states = [state(n, "fetching", LOCK) for n in range(40)] + [state(40, "backward", ENGINE)]
    odd = find_odd(states)
    assert odd.ranks == list(range(40))
    assert odd.reason.endswith(" and 36 other ranks; the other one waits")
    assert len(odd.reason) < 500


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (("RuntimeError", "[gloo] Timed out waiting 1800000ms for recv", True), True),
        (("RuntimeError", "Application timeout caused pair closure", True), True),
        (("DistBackendError", "Watchdog caught collective operation timeout", True), True),
        (
            (WORKER_DIED, "the worker was killed by SIGABRT because a collective timed out", False),
            True,
        ),
        ((WORKER_DIED, "the worker was killed by SIGABRT", False), False),
        ((WORKER_DIED, "the worker was killed by SIGKILL", False), False),
        (("RuntimeError", "[gloo] Connection closed by peer", True), False),
        (("TimeoutError", "the camera timed out", False), False),
    ],
)
def test_a_timeout_of_a_collective_is_known(error, expected):
    """It only means that another rank has not come; other errors say more."""
    name, message, is_consequence = error
    record = WorkerError(0, 0, "n0", name, message, is_consequence=is_consequence)
    assert has_timed_out(record) is expected


def test_ranks_that_did_not_arrive_are_named():
    """A rank whose collective has timed out has left the fit; who still is in a step was late."""
    odd = find_absent([state(0, "finished"), state(1, "fetching", LOCK, STEP)])
    assert odd.ranks == [1]
    assert "is fetching a batch, at training_step (me/train.py:31)" in odd.reason
    assert find_absent([state(0, "finished"), state(1, "validating", STEP)]).ranks == [1]
    assert find_absent([state(0, "finished"), state(1, "finished")]) is None
    assert find_absent([state(0, "forward"), state(1, "forward")]) is None


def test_equal_stacks_are_shown_once_and_the_fewest_first():
    """Ranks of several nodes are in one group; a stack that could not be read says why."""
    many = [RankStacks(rank, threads=[Thread("MainThread", [REDUCE])]) for rank in (0, 1)]
    one = RankStacks(2, threads=[Thread("MainThread", [STEP] * 20, has_gil=True)])
    other = RankStacks(3, is_stopped=True, error="py-spy is not installed")
    nodes = [NodeStacks("t", 0, "a", 0, many), NodeStacks("t", 1, "b", 0, [one, other])]
    groups = grouped(nodes, odd_ranks=[3])
    assert [[rank for rank, *_ in group.ranks] for group in groups] == [[3], [2], [0, 1]]
    text = as_text(groups)
    assert text.startswith(
        "rank 3 on node 1 (b), stopped by a signal (SIGSTOP):\n  no stack: py-spy is not installed"
    )
    assert "thread MainThread, holds the interpreter's lock" in text
    assert "... and 8 calls above" in text
    assert "rank 0 on node 0 (a), rank 1 on node 0 (a):\n    all_reduce" in text
    assert as_text(groups, is_full=True).count("training_step") == 20


def test_beats_and_stacks_are_joined_by_rank():
    """A rank whose node has not answered has no stack, and is known all the same."""
    beats = [NodeBeats(0, node, f"n{node}", 0, [RankBeat(node, step=3)]) for node in (1, 0)]
    answer = NodeStacks("t", 1, "n1", 0, [RankStacks(1, 7, is_stopped=True)])
    first, second = states_of(beats, [answer])
    assert (first.rank, first.step, first.stacks.frames) == (0, 3, [])
    assert (second.rank, second.node_rank, second.stacks.is_stopped) == (1, 1, True)
