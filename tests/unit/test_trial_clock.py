"""On a busy machine a trial has more time, by as much as it waits for a CPU."""

import os
from pathlib import Path

import pytest

from getiaction_launch.checking.apart.clock import Clock

RANKS = {7: 1_000_000_000, 8: 4_000_000_000}
"""How many nanoseconds each process has waited for a CPU."""


@pytest.fixture
def left():
    """How many seconds of 20 are left to two ranks and one of their loaders."""

    def left(passed, waited, limit_seconds=20):
        def read(pid):
            if pid not in waited:
                raise ProcessLookupError
            return f"5 {waited[pid]} 9\n"

        times = iter([100, 100 + passed])
        clock = Clock(limit_seconds, lambda: (7, 8, 9), now=lambda: next(times), read=read)
        return clock.left_seconds()

    return left


def test_time_in_which_two_ranks_wait_for_a_cpu_does_not_count(left):
    """They wait in turn, so their times add up."""
    assert left(21, RANKS) == 4
    assert left(25, RANKS) == 0
    assert left(21, {}) == -1


def test_time_of_loader_processes_is_not_added(left):
    """There may be many of them, and none of the ranks waits for all."""
    assert left(21, {**RANKS, 9: 1_000_000_000}) == 4


def test_trial_has_three_times_its_limit_at_most(left):
    """Also if nothing is ever computed."""
    assert left(59, {7: 10**12}) == 1
    assert left(61, {7: 10**12}) == -1


def test_trial_without_a_limit_has_any_time(left):
    """It is asked for by --deep."""
    assert left(10**9, {}, limit_seconds=None) == float("inf")


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count")
def test_kernel_says_how_long_a_process_waits():
    """A process that has ended meanwhile is left out."""
    clock = Clock(1, lambda: [os.getpid(), 2**30])
    assert clock._waited_seconds() > 0
