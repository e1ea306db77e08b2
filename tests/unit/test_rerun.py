"""``rerun``: another version of a run, by the same plan, with the same code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from strangers import make_run

from getiaction_launch.cli.main import main
from getiaction_launch.launch.freezing import freeze as freezing
from getiaction_launch.launch.freezing.freeze import freeze
from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.run.run import Run

SPEC = ["--trainer.max_epochs=2", "--model=ACT", "--trainer.accelerator=cpu"]
POINT = SweepPoint("act-1a2b3c4d", {"model.lr": "1"})
RUN = "act/version_0"


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch, submitted):
    """The runs that were submitted, in a directory with a module; none is really started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib.py").write_text("OLD = 1\n")
    return submitted


@pytest.fixture
def parsed(monkeypatch):
    """The arguments of the specs that were parsed, which takes seconds."""
    parsed: list[list[str]] = []
    for module in ("launch.resuming.rerun", "cli.resuming.dry_run"):
        monkeypatch.setattr(f"getiaction_launch.{module}.parse", parsed.append)
    return parsed


def make(**records: object) -> Run:
    """A run of the tiny ACT whose code was copied, and which has failed."""
    root = str(Path("experiments").absolute())
    plan = Plan("act", root, SPEC, [], Topology(1, 1, 0), str(Path.cwd()), sweep=POINT)
    return make_run("act", plan=freeze([plan])[0].to_json(), **records)


def test_same_plan_and_code_in_the_next_version(started, parsed, capsys):
    """Whatever was edited since: it is said, and reaches the new run only with --code now."""
    before = Plan.of(make())
    Path("lib.py").write_text("NEW = 1\n")
    assert main(["rerun", "--parsable", RUN]) == 0
    out, err = capsys.readouterr()
    assert out == f"{Path('experiments/act/version_1').absolute()}\n"
    assert "like run act/version_0, but your files have changed since its submission" in err
    assert Plan.of(started[0]) == before
    assert main(["rerun", RUN, "--code", "now"]) == 0
    now = Plan.of(started[1])
    assert now.code.archive != before.code.archive
    assert replace(now, code=None) == replace(before, code=None)
    assert parsed == []  # the files of now say nothing about a copy of before


@pytest.mark.parametrize("verb", ["rerun", "resume"])
def test_present_files_are_looked_for_once(started, parsed, monkeypatch, verb):
    """What is said of them is what is copied, and git is not asked twice."""
    run = make()
    Path("lib.py").write_text("NEW = 1\n")
    chosen, choose = [], freezing._chosen
    monkeypatch.setattr(freezing, "_chosen", lambda plan: chosen.append(plan) or choose(plan))
    assert main([verb, "--code", "now", RUN]) == 0
    assert len(chosen) == 1
    code = Plan.of(started[0]).code
    assert (run.directory.parents[1] / code.archive).is_file()
    assert code.contents
    assert parsed == []


@pytest.mark.parametrize("verb", ["rerun", "resume"])
def test_present_files_over_the_limit_are_refused_with_a_fix_of_the_verb(capsys, verb):
    """There is no flag of a submission in it; the copy of before is still there."""
    run = make()
    run.write("plan", {**run.read("plan"), "snapshot": {"limit_mb": 1}})
    Path("big.py").write_text("x" * 2_000_000)
    assert main([verb, "--code", "now", RUN]) == 3
    said = capsys.readouterr().err
    assert "in the cluster config that --cluster names: snapshot: {exclude: [big.py]}" in said
    assert "Or train the copy that was made at submission: leave out --code now" in said
    assert "--no-snapshot" not in said


def test_a_new_version_may_train_anything(started, parsed, capsys):
    """Also what a resume cannot change; but it is beside the run, and not a point of its sweep."""
    make()
    words = ["--model.lr=1e-5", "--trainer.max_epochs=7", "--seed_everything=3", "--nodes", "2"]
    assert main(["rerun", *words, RUN]) == 0
    assert "act/version_0, but model.lr is 1e-5.\n" in capsys.readouterr().err
    plan = Plan.of(started[0])
    assert plan.arguments[:3] == SPEC
    assert {"--model.lr=1e-5", "--trainer.max_epochs=7", "--trainer.num_nodes=2"} <= {
        *plan.arguments
    }
    assert (plan.topology.num_nodes, plan.sweep, parsed) == (2, None, [plan.arguments])
    assert main(["rerun", "--trainer.experiment_name=other", RUN]) == 2
    assert "rerun cannot change it, as the new version is beside the run" in capsys.readouterr().err


def test_dry_run_writes_nothing(started, parsed, capsys):
    """It says what would be different."""
    make()
    assert main(["rerun", "--dry-run", "--json", "--trainer.max_epochs=7", RUN]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["notes"] == ["trainer.max_epochs is 7."]
    assert said["plan"]["arguments"] in parsed
    assert main(["rerun", "--dry-run", RUN]) == 0
    assert capsys.readouterr().out.startswith(
        "run    act/version_N  (N is claimed at submission)\n"
    )
    assert not started
    assert not Path("experiments/act/version_1").exists()


@pytest.mark.parametrize("name", ["best", "last"])
def test_it_begins_at_a_checkpoint(started, parsed, name):
    """At the one that the run has reported, or else the only one that it has kept."""
    run = make(progress={"step": 3, "checkpoints": {name: f"checkpoints/{name}.ckpt"}})
    (run.directory / "checkpoints").mkdir()
    (run.directory / "checkpoints/epoch=1.ckpt").touch()
    expected = run.directory / "checkpoints/epoch=1.ckpt"
    assert main(["rerun", "--from-checkpoint", name, RUN]) == 0
    assert f"--ckpt_path={expected}" in Plan.of(started[0]).arguments
    reported = run.directory / f"checkpoints/{name}.ckpt"
    reported.touch()
    assert main(["rerun", "--from-checkpoint", name, RUN]) == 0
    assert f"--ckpt_path={reported}" in Plan.of(started[1]).arguments
    assert len(parsed) == 2


def test_what_cannot_begin_at_a_checkpoint_is_refused(started, capsys):
    """With the user's own flag, and what to type instead."""
    run = make()
    assert main(["rerun", "--from-checkpoint", "best", RUN]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --from-checkpoint best: run act/version_0 has saved no")
    run.write("progress", {"checkpoints": {"best": "../../../secret.ckpt"}})
    Path("secret.ckpt").touch()
    assert main(["rerun", "--from-checkpoint", "best", RUN]) == 2
    run.write("done", {"step": 4, "finished_at": 2.0})
    assert main(["rerun", "--from-checkpoint", "last", RUN]) == 2
    error = capsys.readouterr().err
    assert "has finished, so nothing is left to train from there.\nRaise its limit: --tr" in error
    plan = {**run.read("plan"), "arguments": [], "script": ["/train.py"]}
    run.write("plan", plan)
    assert main(["rerun", "--from-checkpoint", "last", RUN]) == 2
    assert "needs a spec: run act/version_0 trains a script" in capsys.readouterr().err
    assert started == []


def test_lost_code_is_named_with_what_to_type(started, capsys):
    """The copy is beside the runs; somebody has removed it."""
    make()
    shutil.rmtree("experiments/.code")
    assert main(["rerun", RUN]) == 3
    assert "as they are now: getiaction-launch rerun --code now" in capsys.readouterr().err
    assert started == []
