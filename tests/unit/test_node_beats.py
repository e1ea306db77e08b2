"""A node learns from its ranks' own pace how long nothing may happen."""

import os

import pytest

from getiaction_launch.node.watching import beats as module
from getiaction_launch.node.watching.beats import FLOOR_SECONDS, LONGEST_LOOK_SECONDS, Beats, Pulse
from getiaction_launch.plan.plan import Stalls
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.beats import NodeBeats
from getiaction_launch.run.beats.memory import BeatMemory, Pause, create_memory
from getiaction_launch.run.run import Run
from getiaction_launch.worker import heart as worker
from getiaction_launch.worker.heart import FIRST_STEPS, Heart, during

LEARNED = Stalls()


class Clock:
    """A monotonic clock that a test sets."""

    seconds = 1000.0

    def monotonic(self):
        """Return the time that the test has set."""
        return self.seconds

    def time(self):
        """Return the same, as if this machine had started at the epoch."""
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock of the worker and of its node."""
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def both(clock):
    """A worker's heart, and how its node sees it after some seconds."""
    descriptor = create_memory()
    heart, pulse = Heart(BeatMemory(descriptor)), Pulse(BeatMemory(descriptor), -1)
    os.close(descriptor)

    def after(seconds):
        while seconds > 0:
            passed = min(seconds, LONGEST_LOOK_SECONDS)
            clock.seconds += passed
            seconds -= passed
            pulse.look(passed)

    return heart, pulse, after


def step(heart, after, seconds):
    """Have a worker make one step, watched by its node."""
    heart.begin_fetch()
    after(0.1)
    heart.in_step("forward")
    after(seconds)
    heart.end_step()
    after(0.1)


def test_a_step_may_take_20_times_the_longest_one(both):
    """But never less than the floor: slow steps of a slow run are not a hang."""
    heart, pulse, after = both
    heart.begin_steps(0)
    for _ in range(FIRST_STEPS + 3):
        step(heart, after, 2)
    heart.begin_fetch()
    after(1)
    assert pulse.limit_seconds(LEARNED) == FLOOR_SECONDS[Pause.STEP]
    step(heart, after, 100)
    heart.begin_fetch()
    after(1)
    assert pulse.limit_seconds(LEARNED) == pytest.approx(2000, rel=0.1)
    assert pulse.silent_seconds == 0
    after(30)
    assert pulse.silent_seconds == pytest.approx(30)


def test_the_first_steps_and_hooks_between_steps_may_take_long(both):
    """Data is prepared, code is compiled, a policy is evaluated, a checkpoint is saved."""
    heart, pulse, after = both
    after(1)
    assert pulse.limit_seconds(LEARNED) is None, "a program may do anything before its fit"
    heart.beat("starting", Pause.SETUP)
    after(5000)
    assert pulse.limit_seconds(LEARNED) == FLOOR_SECONDS[Pause.SETUP]
    heart.begin_steps(7)
    after(1)
    heart.begin_fetch()
    after(1)
    assert pulse.limit_seconds(LEARNED) == pytest.approx(3 * 5000, rel=0.1)
    for _ in range(FIRST_STEPS):
        step(heart, after, 1)
    assert pulse.limit_seconds(LEARNED) == pytest.approx(2 * 5000, rel=0.1), "between two steps"
    heart.begin_fetch()
    after(1)
    assert pulse.limit_seconds(LEARNED) == pytest.approx(2 * 5000, rel=0.1), (
        "an epoch may begin like that"
    )
    heart.beat("finished", Pause.UNKNOWN)
    after(1)
    assert pulse.limit_seconds(LEARNED) is None
    assert pulse.beat.step == 7 + FIRST_STEPS


def test_a_limit_of_the_users_own_replaces_what_was_learned(both):
    """Once batches are fetched; before that, data may be prepared for longer."""
    heart, pulse, after = both
    own = Stalls(limit_minutes=0.5)
    heart.beat("starting", Pause.SETUP)
    after(1)
    assert pulse.limit_seconds(own) == FLOOR_SECONDS[Pause.SETUP]
    heart.begin_steps(0)
    after(1)
    assert pulse.limit_seconds(own) == 30
    with pytest.raises(ValueError, match=r"stalls\.limit_minutes=0 must be more than 0"):
        Stalls(limit_minutes=0)


def test_time_in_which_nobody_ran_does_not_count(both, clock):
    """A laptop that was suspended, or a node whose processes were all stopped, is not a hang."""
    heart, pulse, after = both
    heart.begin_steps(0)
    after(1)
    heart.in_step("forward")
    after(1)
    clock.seconds += 9000
    pulse.look(9000)
    assert pulse.silent_seconds == pytest.approx(LONGEST_LOOK_SECONDS)
    heart.in_step("backward")
    after(1)
    assert max(pulse.longest.values()) < 2 * LONGEST_LOOK_SECONDS


def test_a_phase_inside_another_one_is_left_again(both):
    """Seconds are added up for each phase, and the pause of before holds again."""
    heart, pulse, after = both
    worker._hearts[:] = [heart]
    try:
        heart.begin_steps(0)
        heart.in_step("forward")
        after(2)
        with during("saving", Pause.LONG):
            after(3)
            assert pulse.limit_seconds(Stalls(limit_minutes=1)) == 60
        after(4)
    finally:
        worker._hearts.clear()
    assert heart.now == ("forward", Pause.SETUP)
    heart.beat("optimizing")
    after(0.1)
    totals = dict(zip(("forward", "saving"), (pulse.beat.totals[n] for n in (2, 6)), strict=True))
    assert totals == pytest.approx({"forward": 6, "saving": 3})


def test_the_record_says_step_phase_and_pace(clock, tmp_path):
    """Once a second, and once more in the end; times are those of the wall clock."""
    run = Run.claim(str(tmp_path), "act")
    beats = Beats(Attempt(run, 0, "n1:1", None, "token"), 0, LEARNED, ["H200"])
    _, (memory, _) = beats.open(3)
    heart = Heart(BeatMemory(memory))
    beats.opened(3, memory, pid=17)
    heart.begin_steps(5)
    for number in range(4):
        heart.in_step("forward")
        clock.seconds += 2
        heart.end_step()
        assert beats.look([3]) is True
        assert beats.look([3]) is False, number
    clock.seconds += 0.5
    heart.beat("saving", Pause.LONG)
    beats.close()
    record = NodeBeats.read(run, 0, 0)
    (rank,) = record.ranks
    assert (record.written_at, record.gpus) == (clock.seconds, ["H200"])
    assert (rank.rank, rank.pid, rank.step, rank.phase) == (3, 17, 9, "saving")
    assert (rank.step_at, rank.phase_since) == (clock.seconds - 0.5, clock.seconds)
    assert rank.seconds_per_step == pytest.approx(2)
    assert rank.phase_seconds == {"forward": 8.0, "optimizing": 0.5}


def test_recent_steps_are_kept_apart_from_those_of_the_whole_attempt(both):
    """A rank that has become slow is found although it was fast for hours."""
    heart, pulse, after = both
    heart.begin_steps(0)
    step(heart, after, 1)
    assert pulse.recent_seconds == {}
    for _ in range(100):
        step(heart, after, 1)
    assert pulse.recent_seconds == pytest.approx(
        {"fetching": 0.1, "forward": 1, "optimizing": 0.1}, rel=0.01
    )
    for _ in range(module._MARKS):
        step(heart, after, 3)
    assert pulse.recent_seconds["forward"] == pytest.approx(3)
    heart.begin_steps(0)
    step(heart, after, 2)
    assert pulse.recent_seconds == {}, "another fit of the program"


def test_what_ranks_do_before_they_are_ended_can_be_kept(clock, tmp_path):
    """SIGTERM may free the one that the others have waited for, and then it does something else."""
    run = Run.claim(str(tmp_path), "act")
    beats = Beats(Attempt(run, 0, "n1:1", None, "token"), 0, LEARNED, [])
    _, (memory, _) = beats.open(3)
    heart = Heart(BeatMemory(memory))
    beats.opened(3, memory, pid=17)
    heart.in_step("forward")
    beats.keep()
    heart.beat("finished", Pause.UNKNOWN)
    clock.seconds += 5
    assert beats.look([3]) is False
    beats.close()
    (rank,) = NodeBeats.read(run, 0, 0).ranks
    assert rank.phase == "forward"


def test_what_cannot_be_a_beat_is_left_out():
    """As what a program writes there that happens to have the descriptor."""
    descriptor = create_memory()
    memory = BeatMemory(descriptor)
    memory.write(1, 2, 99, 0, 0.0, 0.0, [0.0] * 9)
    assert memory.read() is None
    os.close(descriptor)
