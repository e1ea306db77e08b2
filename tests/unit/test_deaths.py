"""What a node records of a worker that could not say itself why it ended."""

import signal

import pytest

from getiaction_launch.node.deaths import record_death
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.node_records import TIMED_OUT
from getiaction_launch.run.run import Run

WATCHDOG = "[E101 ProcessGroupNCCL.cpp:697] [Rank 1] Watchdog caught collective operation timeout\n"


@pytest.mark.parametrize(
    ("printed", "has_timed_out"),
    [(WATCHDOG + "frame #0: ??\n" * 1000, True), ("terminate called\n", False), (None, False)],
)
def test_an_abort_of_nccls_watchdog_is_told_from_others(tmp_path, printed, has_timed_out):
    """By what it has printed, whatever comes after that; other aborts are the worker's own."""
    run = Run.claim(str(tmp_path), "act")
    run.make_log_directory(0)
    if printed is not None:
        (run.log_directory(0) / "rank_1.log").write_text(printed)
    attempt = Attempt(run, 0, "n1:1", None)
    record_death(attempt, 1, 0, -signal.SIGABRT, is_oom=False)
    message = run.first_error(0).message
    assert message.startswith("the worker was killed by SIGABRT")
    assert message.endswith(TIMED_OUT) is has_timed_out
