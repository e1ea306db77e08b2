"""Waiting for runs and sweeps that are there: what is shown, and the exit code."""

import json
from pathlib import Path

import pytest
from strangers import LOCAL

from getiaction_launch.cli.main import main
from getiaction_launch.cli.runs.board import Board
from getiaction_launch.launch import status
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

ENDED = {"number": 0, "cause": "time limit", "reason": "too late", "goes_on": False, "ended_at": 1}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def claim(group: str = "", state: str = "SUCCEEDED") -> Run:
    """A run, perhaps of a sweep, that has ended in that state; PENDING if that is empty."""
    run = Run.claim("experiments", "act")
    run.write("plan", {"sweep": {"group": group, "values": {"lr": "1"}} if group else None})
    if state:
        run.write("attempt_0", {**ENDED, "state": state})
    if state == "SUCCEEDED":
        run.write("done", {"step": 5, "metrics": {"train/loss": 0.5}})
    return run


def test_wait_returns_when_the_last_run_has_ended(replace_clock, capsys):
    """Each change of state is a line, the end a table and a total, the largest result the code."""
    claim("act-1a2b3c4d")
    waiting = claim("act-1a2b3c4d", state="")
    claim("act-99999999", state="")  # of another sweep: nobody waits for it

    def sleep(seconds: float) -> None:
        assert seconds == status.WATCH_SECONDS
        waiting.write("attempt_0", {**ENDED, "state": "FAILED"})

    replace_clock(status, sleep=sleep)
    assert main(["wait", "act-1a2b3c4d"]) == 12
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "act/version_0 SUCCEEDED  train/loss 0.5",
        "act/version_1 PENDING (it was not submitted yet)",
        "2 runs: 1 PENDING, 1 SUCCEEDED",
        "act/version_1 FAILED (too late)",
        "2 runs: 1 SUCCEEDED, 1 FAILED",
        "why: getiaction-launch why experiments/act/version_1",
    ]
    rows = [line.split()[:2] for line in out.splitlines()]
    assert rows == [
        ["RUN", "STATE"],
        ["act/version_0", "SUCCEEDED"],
        ["act/version_1", "FAILED"],
        ["2", "runs:"],
    ]


def test_wait_for_one_run_prints_how_it_ended(capsys):
    """As --wait does; --json has one object for one run, and a list for several."""
    claim()
    claim(state="CANCELLED")
    assert main(["wait", "act/version_0"]) == 0
    assert capsys.readouterr().out.startswith("run          act/version_0 SUCCEEDED\n")
    assert main(["wait", "--json", "@last", "act/version_1"]) == 11
    assert json.loads(capsys.readouterr().out)["state"] == "CANCELLED"
    assert main(["wait", "--json", "act/version_0", "act/version_1"]) == 11
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["run"] for run in runs] == ["act/version_0", "act/version_1"]


def test_wait_gives_up_on_a_run_that_nobody_can_judge(monkeypatch, capsys):
    """Its scheduler or machine does not answer; the others are waited for all the same."""
    monkeypatch.setattr(status, "LOST_SECONDS", 0)
    claim()
    lost = claim(state="")
    process = {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0}
    lost.write("job", {"backend": {**LOCAL, "init_args": {"grace_seconds": 1}}, "process": process})
    assert main(["wait", "@last"]) == 5
    assert capsys.readouterr().out.startswith("run act/version_1 UNKNOWN (")
    assert main(["wait", "act/version_0", "act/version_1"]) == 5
    assert capsys.readouterr().out.endswith("2 runs: 1 SUCCEEDED, 1 UNKNOWN\n")


def test_a_thousand_runs_are_looked_at_each_minute_and_one_failed_look_loses_none(
    monkeypatch, replace_clock
):
    """Whether a run is lost counts from its first failed look; a good one begins anew."""
    runs = [Run.at(f"memory://many/experiments/act/version_{number}") for number in range(1000)]
    now, pauses, looks = [1e5], [], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert len(pauses) < 100
        now[0] += seconds

    def look(watched: status.Watched) -> RunStatus:
        is_first = watched.run == runs[0]
        if is_first:
            looks.append(now[0])
        fails = is_first and len(looks) in (30, 31, 33)
        state = JobState.UNKNOWN if fails else JobState.RUNNING
        return RunStatus(watched.run, JobState.SUCCEEDED if len(looks) == 35 else state)

    replace_clock(status, monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(status.Watched, "read_status", look)
    monkeypatch.setattr(status, "LOST_SECONDS", 90)
    found = status.wait_for(runs, lambda _: None)
    assert {each.state for each in found} == {JobState.SUCCEEDED}
    assert max(pauses) == status.MOST_ROUND_SECONDS == 60


def test_ctrl_c_leaves_the_runs_alone(replace_clock, capsys):
    """What to type to end them is said, with the name of the sweep."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    replace_clock(status, sleep=interrupt)
    for _ in range(2):
        claim("act-1a2b3c4d", state="")
    assert main(["wait", "act-1a2b3c4d"]) == 130
    assert "To end them: getiaction-launch cancel act-1a2b3c4d\n" in capsys.readouterr().err
    assert main(["wait", "@last"]) == 130
    assert "To end it: getiaction-launch cancel experiments/act/version_1" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("rows", [24, 4])
def test_bars_fit_on_the_terminal(monkeypatch, capsys, rows):
    """A line for each run and a total; with too few lines, the runs that train are shown."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", str(rows))
    monkeypatch.setenv("COLUMNS", "100")
    runs = [Run(Path(f"experiments/act/version_{number}")) for number in range(8)]
    half = Progress(step=5, total_steps=10, phase="training")
    statuses = [RunStatus(run, JobState.PENDING) for run in runs[:6]]
    statuses += [RunStatus(run, JobState.RUNNING, progress=half) for run in runs[6:]]
    board = Board()
    board(statuses)
    board.close()
    shown = capsys.readouterr().err
    assert "act/version_7 RUNNING  step 5/10" in shown
    assert "8 runs: 6 PENDING, 2 RUNNING" in shown
    assert ("act/version_5 PENDING" in shown) is (rows == 24)


def test_status_and_cancel_take_the_name_of_a_sweep(capsys):
    """As ls shows it; a verb that needs one run names the first and the last of them.

    The last point is cancelled first, so that none which waits is started in the meantime.
    """
    for _ in range(2):
        claim("act-1a2b3c4d")
    claim()
    assert main(["status", "act-1a2b3c4d"]) == 0
    out = capsys.readouterr().out
    assert "act/version_2" not in out
    assert out.endswith("\n2 runs: 2 SUCCEEDED\n")
    assert main(["status", "--json", "act-1a2b3c4d"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert main(["cancel", "act-1a2b3c4d"]) == 0
    lines = ["run act/version_1 SUCCEEDED", "run act/version_0 SUCCEEDED"]
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["logs", "act-1a2b3c4d"]) == 2
    error = capsys.readouterr().err
    assert "'act-1a2b3c4d' is a sweep of 2 runs, from act/version_0 to act/version_1." in error
    assert main(["status", "act-1"]) == 2
    assert "'act-1' is neither a run's directory, nor name/version_N or a sweep" in (
        capsys.readouterr().err
    )
