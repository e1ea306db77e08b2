"""``rm``: what it removes, what it refuses, and that nothing else is touched."""

import io
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from strangers import make_run

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.cli.main import main
from getiaction_launch.launch.freezing.freeze import freeze
from getiaction_launch.launch.removing import remove
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.plan import Plan, SweepPoint
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answering(monkeypatch):
    """Have a terminal on which somebody answers."""

    def answer(text: str) -> None:
        stdin = io.StringIO(text)
        stdin.isatty = lambda: True
        monkeypatch.setattr("sys.stdin", stdin)

    return answer


def test_it_asks_on_a_terminal(answering, capsys):
    """What would be removed is shown with its size; everything but yes means no."""
    run = make_run("act")
    (run.directory / "weights").write_bytes(bytes(5000))
    for answer in ("\n", "no\n", ""):
        answering(answer)
        assert main(["rm", "act/version_0"]) == 0
        out, err = capsys.readouterr()
        assert err.startswith("act/version_0  FAILED  6.")
        assert err.endswith("This cannot be undone. [y/N] nothing was removed.\n")
        assert out == ""
    assert run.directory.exists()
    answering("y\n")
    assert main(["rm", "act/version_0"]) == 0
    assert capsys.readouterr().out.startswith("removed act/version_0  6.")
    assert not Path("experiments/act").exists()
    assert Path("experiments").exists()


def test_a_script_must_say_yes(monkeypatch, capsys):
    """Without a terminal nobody can be asked; --yes asks nothing, --json says what was removed."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    run, kept = make_run("act"), make_run("act")
    assert main(["rm", "act/version_0"]) == 2
    assert "rm asks before it removes 1 run (" in capsys.readouterr().err
    assert main(["rm", "--yes", "--json", "act/version_0"]) == 0
    (removed,) = json.loads(capsys.readouterr().out)["removed"]
    assert (removed["run"], removed["directory"]) == ("act/version_0", str(run.directory))
    assert kept.directory.exists()


def test_a_run_that_may_still_run_is_refused(monkeypatch, capsys):
    """It must be cancelled first; --force helps only where nobody can say. Then none is removed."""
    lost = {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0.0}
    make_run("act")
    job = make_run("act").read("job")
    unknown = make_run("act", job={**job, "process": lost}, attempt_0=None)
    claimed = make_run("act", job=None, attempt_0=None)
    for run in (unknown, claimed):
        assert main(["rm", "--yes", "act/version_0", str(run.directory)]) == 3
        error = capsys.readouterr().err
        assert f"End it first: getiaction-launch cancel {run.directory}\nIf nothing of it" in error
    assert Path("experiments/act/version_0").exists()
    assert main(["rm", "--yes", "--force", "act/version_2", "act/version_3"]) == 0
    live = make_run("live")
    running = RunStatus(live, JobState.RUNNING, job=JobStatus(JobState.RUNNING))
    monkeypatch.setattr(remove, "read_status", lambda _: running)
    capsys.readouterr()
    assert main(["rm", "--yes", "--force", str(live.directory)]) == 3
    said = "error: run live/version_0 is RUNNING; it is not removed.\nEnd it first: "
    assert capsys.readouterr().err == f"{said}getiaction-launch cancel {live.directory}\n"
    assert live.directory.exists()


def test_a_run_that_starts_during_the_question_is_kept(monkeypatch):
    """Its state is read once more before anything is removed."""
    run = make_run("act")
    monkeypatch.setattr("getiaction_launch.cli.runs.rm.check_removable", lambda *_, **_more: None)
    run.forget("attempt_0")
    run.forget("job")
    assert main(["rm", "--yes", "act/version_0"]) == 3
    assert run.directory.exists()


def test_links_are_removed_and_not_followed(tmp_path, capsys):
    """Neither one in the run, nor one that is the run, nor one that leads out of the root."""
    precious = tmp_path / "precious/version_0"
    shutil.copytree(make_run("act").directory, precious)
    run = Run(tmp_path / "experiments/act/version_0")
    for name in ("data", "launch/data", "launch/logs/data"):
        (run.directory / name).symlink_to(precious)
    Path("experiments/act/version_1").symlink_to(precious)
    Path("experiments/other").symlink_to(precious.parent)
    Path("experiments/act/version_2").symlink_to(run.directory)
    assert main(["rm", "--yes", "act/version_2"]) == 3
    assert f"reached by a link that leads to {run.directory}." in capsys.readouterr().err
    assert main(["rm", "--yes", "act/version_0"]) == 0
    for name in ("act/version_1", "other/version_0"):
        assert main(["rm", "--yes", name]) == 3
        assert f"is reached by a link that leads to {precious}." in capsys.readouterr().err
    (precious / "launch").rename(tmp_path / "launch")
    (precious / "launch").symlink_to(tmp_path / "launch")
    assert main(["rm", "--yes", str(precious)]) == 0
    assert (tmp_path / "launch/plan.json").exists()
    assert not precious.exists()


def test_what_was_removed_in_part_can_be_removed_again(monkeypatch, capsys):
    """The plan is removed last, and without it the rest is still the rest of a run."""
    run = make_run("act")
    (run.directory / "late").touch()

    def failing(path: Path) -> None:
        if path.name == "plan.json":
            raise PermissionError(13, "Permission denied", str(path))
        before(path)

    before = remove.remove
    with monkeypatch.context() as patched:
        patched.setattr(remove, "remove", failing)
        assert main(["rm", "--yes", "act/version_0"]) == 5
    assert f"{run.launch_directory}/plan.json: Permission denied" in capsys.readouterr().err
    left = sorted(path.name for path in run.directory.rglob("*"))
    assert left == ["launch", "plan.json", "removing.json"]
    assert main(["rm", "--yes", "act/version_0"]) == 0
    assert not run.directory.exists()
    rest = make_run("act", plan=None)
    assert main(["status", "act/version_0"]) == 2
    assert main(["rm", "--yes", "act/version_0"]) == 0
    assert not rest.directory.exists()
    Path("lightning_logs/version_0").mkdir(parents=True)
    assert main(["rm", "--yes", "--force", "lightning_logs/version_0"]) == 2
    assert "no such run" in capsys.readouterr().err
    assert Path("lightning_logs/version_0").exists()


def test_code_is_removed_with_the_last_run_that_needs_it(capsys):
    """Also if only an earlier plan names it, and never while another run is being submitted."""
    Path("lib.py").write_text("A = 1\n")
    runs = [make_run("act") for _ in range(3)]
    (plan,) = freeze(
        [replace(Plan.of(runs[0]), script=["lib.py"], working_directory=str(Path.cwd()))]
    )
    for run, name in zip(runs, ("plan", "plan", "plan_before_attempt_1"), strict=True):
        run.write(name, plan.to_json())
    archive = Path("experiments", plan.code.archive)
    os.utime(archive, (1, 1))
    assert main(["rm", "--yes", "act/version_0", "act/version_1"]) == 0
    assert archive.exists()
    os.utime(archive)
    shutil.copytree("experiments/act/version_2", "experiments/act/version_3")
    assert main(["rm", "--yes", "act/version_3", "act/version_2"]) == 0
    assert archive.exists()  # it was written a moment ago
    make_run("act").write("plan", plan.to_json())
    os.utime(archive, (time.time() - 3600,) * 2)
    capsys.readouterr()
    assert main(["rm", "--yes", "--json", "@last"]) == 0
    assert json.loads(capsys.readouterr().out)["code"] == [str(archive.absolute())]
    assert not archive.exists()


def test_a_sweep_is_removed_by_its_name():
    """All its points, and no other run."""
    for group in ("act-1a2b3c4d", "act-1a2b3c4d", "act-99999999"):
        run = make_run("act")
        plan = Plan.of(run).to_json()
        run.write("plan", {**plan, "sweep": vars(SweepPoint(group, {"lr": "1"}))})
    assert main(["rm", "-y", "act-1a2b3c4d"]) == 0
    assert [path.name for path in Path("experiments/act").iterdir()] == ["version_2"]
