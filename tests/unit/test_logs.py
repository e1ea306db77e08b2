"""`logs`: which lines it prints, by number, time, pattern and attempt."""

import os
import re
import time
from pathlib import Path

import pytest

from getiaction_launch.cli.logs.verb import read_since
from getiaction_launch.cli.main import main
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.logs.lines import read_lines
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage import times as log_times
from getiaction_launch.storage.times import LogTimes, length_before, times_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two attempts with two ranks each, that has failed an hour ago."""
    monkeypatch.chdir(tmp_path)
    run = Run.claim(str(tmp_path / "experiments"), "act")
    run.write("plan", Plan("act", "x", [], ["t.py"], Topology(2, 1, 0), "/w").to_json())
    ends = (time.time() - 7200, time.time() - 3600)
    for number, ended_at in enumerate(ends):
        is_last = number == 1
        AttemptRecord(
            *(number, ""),
            started_at=ended_at - 600,
            ended_at=ended_at,
            state=JobState.FAILED,
            goes_on=not is_last,
        ).write(run)
        for rank in range(2):
            log = run.make_log_directory(number) / f"rank_{rank}.log"
            log.write_text("".join(f"{number}{rank} step {n} loss {n % 2}\n" for n in range(4)))
            os.utime(log, (ended_at, ended_at))
    return run


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines that `logs` prints with these words."""
    assert main(["logs", *words, "@last"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("run")
def test_lines_that_match_are_printed_and_the_last_of_them(capsys):
    """``-n`` counts lines that match, of each log, as journalctl does."""
    assert printed(capsys, "--grep", "loss 1") == [
        "[rank 0] 10 step 1 loss 1",
        "[rank 0] 10 step 3 loss 1",
        "[rank 1] 11 step 1 loss 1",
        "[rank 1] 11 step 3 loss 1",
    ]
    for flag in ("-n", "--tail"):
        assert printed(capsys, flag, "1", "--grep", "(?i)LOSS 0") == [
            "[rank 0] 10 step 2 loss 0",
            "[rank 1] 11 step 2 loss 0",
        ]
    assert printed(capsys, "--rank", "1", "--grep", "^11 step 0", "-n", "5") == ["11 step 0 loss 0"]
    assert printed(capsys, "--grep", "gripper") == []


@pytest.mark.usefixtures("run")
def test_lines_of_all_attempts_say_which_one(capsys):
    """Those that ended before ``--since`` are left out."""
    assert printed(capsys, "--attempt", "all", "--grep", "step 3", "--rank", "0") == [
        "[attempt 0] 00 step 3 loss 1",
        "[attempt 1] 10 step 3 loss 1",
    ]
    both = printed(capsys, "--attempt", "all", "-n", "1")
    assert both[0] == "[attempt 0, rank 0] 00 step 3 loss 1"
    assert len(both) == 4
    since = printed(capsys, "--attempt", "all", "-n", "1", "--since", "90m")
    assert since == both[2:]
    assert printed(capsys, "--attempt", "all", "--since", "10m") == []
    assert printed(capsys, "--attempt", "0", "-n", "1") == [
        "[rank 0] 00 step 3 loss 1",
        "[rank 1] 01 step 3 loss 1",
    ]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--grep (", "error: --grep '(': invalid regular expression: missing )"),
        ("--since soon", "error: --since soon: invalid time.\nExamples: 90s, 10m"),
        ("--since 10x", "error: --since 10x: invalid time."),
        ("--attempt 2", "error: --attempt 2: there is no such attempt.\nAttempts of this run go"),
        ("--attempt -1", "error: --attempt -1: there is no such attempt."),
        ("--lines x", "error: --lines: "),
    ],
)
def test_mistake_is_named_with_what_was_typed(capsys, words, error):
    """And how to write it."""
    assert main(["logs", *words.split(), "@last"]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5 h", 5400), ("2d", 172800), ("3min", 180)],
)
def test_duration_is_before_now(text, seconds):
    """As kubectl and docker read it."""
    assert read_since(text, 1e9) == 1e9 - seconds


def test_time_is_of_this_machine_unless_it_names_another():
    """ISO 8601, with or without a time of day."""
    assert read_since("2001-09-09T01:46:40Z", 0) == 1e9
    assert read_since("2001-09-09T03:46:40+02:00", 0) == 1e9
    assert read_since("2001-09-09", 0) == time.mktime((2001, 9, 9, 0, 0, 0, 0, 0, -1))
    for text in ("10", "m10", "10m x", "-5m"):
        with pytest.raises(UsageError):
            read_since(text, 0)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of which the node has noted the size after 1,000, 2,000 and 3,000 seconds."""
    path = tmp_path / "rank_0.log"
    monkeypatch.setattr(log_times, "PERIOD_SECONDS", 0)
    times = LogTimes([path, tmp_path / "rank_1.log"])
    for now in (1000, 2000, 3000):
        with path.open("a") as file:
            file.write(f"at {now}\nagain at {now}\nunfinished at {now}")
        monkeypatch.setattr(log_times.time, "time", lambda now=now: now)
        times.note()
        times.note()  # nothing is noted of a log that has not grown
    monkeypatch.undo()
    os.utime(path, (3000, 3000))
    return path


def since(path: Path, seconds: float, last: int | None = None, pattern: str = "") -> list[str]:
    """The lines that are read of a log since then."""
    found = re.compile(pattern) if pattern else None
    return [line for _, line in read_lines({"": path}, lambda: True, last, seconds, found)]


def test_lines_since_a_time_are_found(log):
    """A line that was not complete then is among them, whole."""
    assert times_of(log).read_text().splitlines() == ["1000 40", "2000 80", "3000 120"]
    everything = log.read_text().splitlines()
    assert since(log, 0) == since(log, 999) == everything
    assert since(log, 1000) == since(log, 1999) == everything[2:]
    assert since(log, 2500) == everything[4:]
    assert since(log, 3001) == []
    assert since(log, 1000, last=2) == everything[-2:]
    assert since(log, 2500, last=100) == everything[4:]
    assert since(log, 2500, last=1, pattern="again") == [everything[5]]
    assert since(log, 1000, pattern="2000$") == everything[2:4]


def test_log_without_times_is_printed_whole_if_it_was_written_since(log):
    """As of a run of an earlier version; times of a stranger are no more than numbers."""
    times_of(log).unlink()
    assert length_before(log, 2000) is None
    assert since(log, 2500) == log.read_text().splitlines()
    assert since(log, 3001) == []
    times_of(log).write_bytes(b"\xff\n-1 5\n2000 99999999\nnan 3\n2000")
    assert since(log, 2500) == []


def test_new_lines_that_match_follow(log):
    """With a pattern, lines that come later are printed if they match."""
    looks = iter([False, True])

    def is_over() -> bool:
        over = next(looks)
        if over:
            with log.open("a") as file:
                file.write("\nloss nan\nloss 1\n")
        return over

    lines = [line for _, line in read_lines({"": log}, is_over, 1, None, re.compile("^at|nan"))]
    assert lines == ["at 1000", "loss nan"]
