"""`ls`: which runs it lists, in which order, and what it says of each."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from getiaction_launch.cli.listing import table
from getiaction_launch.cli.main import main
from getiaction_launch.launch.listing import order
from getiaction_launch.launch.listing.below import runs_below
from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.plan.site import Site
from getiaction_launch.run.records import AttemptRecord, Done, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

SLURM = "getiaction_launch.backends.slurm.SlurmBackend"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ended(
    name: str,
    state: JobState = JobState.SUCCEEDED,
    sweep: dict[str, str] | None = None,
    minutes: int = 1,
    **progress: object,
) -> Run:
    """A run that was launched and has ended, one minute after the one before."""
    run = Run.claim(str(Path("experiments").absolute()), name)
    plan = Plan(
        *(name, "experiments", [], ["train.py"], Topology(2, 4, 4), "/w"),
        sweep=SweepPoint("sweep-12345678", sweep) if sweep else None,
    )
    run.write("plan", plan.to_json())
    number = len(list(Path("experiments").glob("*/version_*")))
    os.utime(run.launch_directory / "plan.json", (1e9 + 60 * number,) * 2)
    site = Site(SLURM, "17", 3, 4, 4)
    AttemptRecord(
        started_at=1e9, ended_at=1e9 + 60 * minutes, state=state, site=site, reason="it broke"
    ).write(run)
    record = Done if state is JobState.SUCCEEDED else Progress
    record(**progress).write(run)
    return run


def names(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The names of the runs that `ls` lists with these words, in its order."""
    assert main(["ls", *words]) == 0
    _, *rows = capsys.readouterr().out.splitlines() or [""]
    return [row.split()[0] for row in rows]


def test_duration_nodes_cluster_and_checkpoint_are_columns(capsys):
    """Those of the newest attempt; a checkpoint is the newest, of the launcher or of a callback."""
    ended("act", minutes=90, step=40, checkpoints={"last": "checkpoints/epoch=0-step=38.ckpt"})
    ended("act", JobState.FAILED, step=30, checkpoint_step=20)
    assert main(["ls"]) == 0
    header, *rows = (re.split("  +", row) for row in capsys.readouterr().out.splitlines())
    assert header[-4:] == ["DURATION", "NODES", "CLUSTER", "CHECKPOINT"]
    assert [row[-4:] for row in rows] == [
        ["1 min 0 s", "3", "slurm", "20"],
        ["1 h 30 min", "3", "slurm", "38"],
    ]
    assert main(["ls", "--json", "--limit", "1"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    keys = ("elapsed_seconds", "nodes", "workers_per_node", "gpus_per_node", "cluster")
    assert [listed[key] for key in keys] == [60, 3, 4, 4, "slurm"]
    assert (listed["checkpoint_step"], listed["submitted_at"]) == (20, 1e9 + 120)


def test_narrow_terminal_shows_the_most_important_columns(capsys, monkeypatch):
    """A file or a pipe gets all of them."""
    ended("act", step=40, checkpoint_step=40, metrics={"val/loss": 0.5})
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    heads = []
    for width in (200, 95, 68, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["ls"]) == 0
        heads.append(capsys.readouterr().out.splitlines()[0].split())
    columns = ["RUN", "STATE", "STEP", "LOSS", "AGE", "DURATION", "NODES", "CLUSTER", "CHECKPOINT"]
    assert heads == [columns, columns, columns[:6], columns[:4]]
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert main(["ls"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == columns


def test_runs_are_chosen_by_state_and_name(capsys):
    """A state in any case, several with commas; a name as in a shell, with or without version."""
    for name, state in (("act", JobState.FAILED), ("act", JobState.CANCELLED), ("pi0", None)):
        ended(name, state or JobState.SUCCEEDED)
    assert names(capsys, "--state", "failed") == ["act/version_0"]
    assert names(capsys, "--state", "Failed,succeeded") == ["pi0/version_0", "act/version_0"]
    assert names(capsys, "--state", "failed", "--state", "cancelled", "--limit", "1") == [
        "act/version_1"
    ]
    assert names(capsys, "--name", "a*") == ["act/version_1", "act/version_0"]
    assert names(capsys, "--name", "*/version_0") == ["pi0/version_0", "act/version_0"]
    assert main(["ls", "--state", "running"]) == 0
    said = "no runs in experiments are RUNNING; in other states: 3\n"
    assert capsys.readouterr() == ("", said)
    assert main(["ls", "--name", "dp"]) == 0
    assert capsys.readouterr() == ("", "no runs in experiments have a name like 'dp'\n")
    assert main(["ls", "--state", "done"]) == 2
    assert "error: --state done: there is no such state." in capsys.readouterr().err


def test_order_is_by_age_name_step_duration_or_metric(capsys):
    """The newest, most or best come first; runs without the value, or with NaN, come last."""
    ended("b", step=1, minutes=3, metrics={"val/loss": 2.0, "val/acc": 0.1})
    ended("a", step=3, minutes=2, metrics={"val/loss": float("nan"), "val/acc": 0.3})
    ended("c", step=2, minutes=1, metrics={"val/loss": 1.0, "reached": 3.0})
    ended("d", metrics={"reached": 4.0}, modes={"reached": "max"}, minutes=0)
    for key, letters in {
        "age": "dcab",
        "name": "abcd",
        "step": "acbd",
        "duration": "bacd",
        "val/loss": "cbda",
        "val/acc": "abdc",
        "reached": "dcab",
    }.items():
        assert names(capsys, "--sort", key) == [f"{letter}/version_0" for letter in letters], key
    assert names(capsys, "--sort", "val/loss", "-r", "--limit", "3") == [
        f"{letter}/version_0" for letter in "bcd"
    ]
    assert names(capsys, "-r") == [f"{letter}/version_0" for letter in "bacd"]
    assert main(["ls", "--sort", "val/los"]) == 2
    error = capsys.readouterr().err
    assert "error: --sort val/los: no run here has logged such a metric." in error
    assert "Did you mean 'val/loss'?" in error


def test_best_value_so_far_decides_before_the_last_one(capsys):
    """The column shows the value by which the runs are sorted."""
    ended("a", metrics={"val/loss": 3.0}, best={"val/loss": 1.0})
    ended("b", metrics={"val/loss": 2.0}, best={"val/loss": 1.5})
    assert main(["ls", "--sort", "val/loss"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[3] == "val/loss"
    assert "BEST" not in header
    assert [row.split()[3] for row in rows] == ["1", "1.5"]


def test_sweep_is_a_table_of_its_values_best_first(capsys):
    """Its metric is the one that most of its points show; other runs are left out."""
    for lr, seed, loss in (("1e-4", "1", 0.5), ("1e-5", "1", 0.2), ("1e-4", "2", 0.3)):
        sweep = {"model.init_args.lr": lr, "seed_everything": seed}
        ended("act", sweep=sweep, metrics={"val/loss": loss}, monitored=["val/loss"])
    ended("act", metrics={"val/loss": 0.1})
    assert main(["ls", "sweep-12345678"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:6] == ["RUN", "lr", "seed_everything", "STATE", "STEP", "val/loss"]
    assert "SWEEP" not in header
    assert [row.split()[:3] for row in rows] == [
        ["act/version_1", "1e-5", "1"],
        ["act/version_2", "1e-4", "2"],
        ["act/version_0", "1e-4", "1"],
    ]
    assert names(capsys, "sweep-12345678", "--sort", "age", "--limit", "1") == ["act/version_2"]
    root = str(Path("experiments").absolute())
    assert main(["ls", "--json", "--root", root, "sweep-12345678", "--limit", "1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = {"name": "sweep-12345678", "metric": "val/loss", "lower_is_better": True}
    assert shown["sweep"] == found
    (run,) = shown["runs"]
    values = {"model.init_args.lr": "1e-5", "seed_everything": "1"}
    assert run["sweep"] == {"name": "sweep-12345678", "values": values}
    assert main(["ls", "sweep-87654321"]) == 2
    assert "no such directory, and no such sweep in experiments" in capsys.readouterr().err


def test_keys_of_a_sweep_with_the_same_last_part_are_shown_whole():
    """Columns of the same name would say nothing."""
    point = SweepPoint("s", {"a.lr": "1", "b.lr": "2", "seed": "3"})
    assert [column.title for column in table._axes([point, None])] == ["a.lr", "b.lr", "seed"]


def test_run_that_nobody_launched_is_listed(capsys):
    """As `getiaction fit` leaves it in the same root; a directory without any of that is none."""
    version = Path("experiments/act/version_0")
    (version / "checkpoints").mkdir(parents=True)
    (version / "config.yaml").touch()
    (version / "checkpoints/epoch=1-step=44.ckpt").touch()
    (version / "checkpoints/epoch=0-step=5.ckpt").touch()
    now = time.time()
    os.utime(version / "config.yaml", (now - 300, now - 300))
    os.utime(version / "checkpoints", (now, now))
    ended("act")
    for other in ("act/version_2/launch", "act/version_3/videos", "act/version_4", "act/old"):
        Path("experiments", other).mkdir(parents=True)
    Path("experiments/act/version_2/config.yaml").touch()  # it is being discarded
    assert main(["ls"]) == 0
    row, _ = capsys.readouterr().out.splitlines()[1:]
    words = ["act/version_0", "NOT_LAUNCHED", "-", "-", "5 min", "5 min 0 s", "-", "-", "44"]
    assert re.split("  +", row) == words
    assert names(capsys, "--state", "not-launched") == ["act/version_0"]
    assert main(["ls", "--json", "--state", "not_launched"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["state"], run["checkpoint_step"], run["nodes"]) == ("NOT_LAUNCHED", 44, None)


def test_no_more_is_read_than_a_list_needs(monkeypatch):
    """Names are compared before anything is read, and a limit ends the reading."""
    for _ in range(3):
        ended("act")
    ended("pi0")
    looked, read = [], []
    lstat, read_entries = Path.lstat, order.read_entries

    def look(path: Path) -> os.stat_result:
        looked.append(path)
        return lstat(path)

    def count(found):
        read.extend(found)
        return read_entries(found)

    monkeypatch.setattr(Path, "lstat", look)
    monkeypatch.setattr(order, "read_entries", count)
    found = runs_below("experiments", "act", 2)
    assert len(looked) == 3
    assert [each.found.run.name for each in order.Order(limit=2).read(found)] == [
        "act/version_2",
        "act/version_1",
    ]
    assert len(read) == 2
