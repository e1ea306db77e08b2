"""The watchdog of a node notices everything else while it reads stacks."""

import threading

import pytest

from getiaction_launch.node.watching import watchdog as module
from getiaction_launch.node.watching.beats import Beats
from getiaction_launch.plan.plan import Stalls
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.beats.stacks import NodeStacks, RankStacks, StacksRequest
from getiaction_launch.run.run import Run

LIMIT_SECONDS = 60


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """What answers for a rank whose stacks are read slowly, and the events of that."""
    begun, may_end = threading.Event(), threading.Event()

    def read_stacks(pids, files):
        assert files.keys() == pids.keys()
        begun.set()
        assert may_end.wait(LIMIT_SECONDS)
        return [RankStacks(rank, pid) for rank, pid in pids.items()]

    monkeypatch.setattr(module, "read_stacks", read_stacks)
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.0)
    run = Run.claim(str(tmp_path), "act")
    run.make_log_directory(0)
    beats = Beats(Attempt(run, 0, "n1:1", None, "token"), 1, Stalls(), [])
    _, (memory, _) = beats.open(3)
    beats.opened(3, memory, pid=17)
    yield module.Answers(beats, None), run, begun, may_end
    may_end.set()
    beats.close()


def test_stacks_are_read_beside_everything_else(answers):
    """A py-spy that does not answer keeps nobody from noticing signals and deaths."""
    answers, run, begun, may_end = answers
    first, second = StacksRequest.make(0), StacksRequest.make(0)
    first.write(run)
    answers.look({3})
    assert begun.wait(LIMIT_SECONDS)
    assert NodeStacks.read(run, 0, 1) is None
    second.write(run)
    answers.look({3})
    may_end.set()
    answers.wait()
    answer = NodeStacks.read(run, 0, 1)
    assert (answer.token, [(each.rank, each.pid) for each in answer.ranks]) == (
        first.token,
        [(3, 17)],
    )
    answers.look({3})
    answers.wait()
    assert NodeStacks.read(run, 0, 1).token == second.token, "it is looked for again"
