"""``compare``: what differs between runs, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import add_attempt, finish, make

from getiaction_launch.cli.main import main
from getiaction_launch.launch.freezing.freeze import freeze
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan, SweepPoint
from getiaction_launch.run.run import Run


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty directory for runs, in that of the user's code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib.py").write_text("A = 1\nB = 2\n")
    (tmp_path / "same.py").touch()
    (tmp_path / "old.py").write_bytes(b"\xff")
    return tmp_path / "experiments"


def submit(root: Path, **changes: object) -> Run:
    """A run that has finished, with a copy of the code of now."""
    run = make(root, sweep=SweepPoint("act-1a2b3c4d", {"lr": "1"}))
    plan = replace(Plan.of(run), working_directory=str(root.parent), **changes)
    run.write("plan", freeze([plan])[0].to_json())
    return run


def test_only_what_differs_is_shown(root, capsys):
    """Results, values of the spec, versions, and the files of the code, as a table."""
    first = submit(root)
    (root.parent / "lib.py").write_text("A = 1\nB = 3\n")
    (root.parent / "new.py").write_text("C = 1\n\x1b]0;title\x07")
    (root.parent / "old.py").unlink()
    second = submit(root, arguments=[*Plan.of(first).arguments, "--trainer.max_epochs=30"])
    plan = Plan.of(second)
    code = replace(plan.code, versions={**plan.code.versions, "torch": "9.9"})
    second.write("plan", replace(plan, code=code).to_json())
    for number, run in enumerate((first, second)):
        add_attempt(run, 0, 0, 60 + 30 * number)
        finish(run, metrics={"val/loss": 0.123456 + number, "lr": 0.1}, best={"val/loss": 0.1})
    assert main(["compare", "--code", "act/version_0", "act/version_1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    torch = Plan.of(first).code.versions["torch"]
    assert lines == [
        ["act/version_0", "act/version_1"],
        ["result", "last", "val/loss", "0.1235", "1.123"],
        ["duration", "1", "min", "0", "s", "1", "min", "30", "s"],
        ["spec", "trainer.max_epochs", "20", "30"],
        ["packages", "torch", torch, "9.9"],
        [],
        ["code", "of", "act/version_1,", "from", "act/version_0"],
        ["~", "lib.py"],
        ["+", "new.py"],
        ["-", "old.py"],
        ["---", "a/lib.py"],
        ["+++", "b/lib.py"],
        ["@@", "-1,2", "+1,2", "@@"],
        ["A", "=", "1"],
        ["-B", "=", "2"],
        ["+B", "=", "3"],
        ["---", "a/new.py"],
        ["+++", "b/new.py"],
        ["@@", "-0,0", "+1,2", "@@"],
        ["+C", "=", "1"],
        ["+\\x1b]0;title\\x07"],
    ]


def test_machines_get_whole_numbers_and_every_run(root, capsys):
    """A sweep is compared by its name; lines of code come with --code only."""
    for number in range(3):
        finish(submit(root), metrics={"val/loss": 0.123456 + (number == 2)})
    assert main(["compare", "--json", "act-1a2b3c4d"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["runs"] == [f"act/version_{number}" for number in range(3)]
    values = {row["key"]: row["values"] for row in said["rows"] if row["section"] == "result"}
    assert values == {"last val/loss": [0.123456, 0.123456, 1.123456]}
    assert said["files"] == {}
    (root.parent / "lib.py").write_text("A = 1\n")
    submit(root)
    assert main(["compare", "--json", "act/version_0", "act/version_3"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == {"act/version_3": [{"path": "lib.py", "change": "changed"}]}
    assert main(["compare", "--json", "--code", "act/version_0", "act/version_3"]) == 0
    ((changed,),) = json.loads(capsys.readouterr().out)["files"].values()
    assert changed["diff"][-1] == "-B = 2"


def test_equal_runs_have_no_differences(root, capsys):
    """And one run has nothing to be compared with."""
    submit(root)
    submit(root)
    assert main(["compare", "act/version_0", "act/version_1"]) == 0
    assert capsys.readouterr().out == "no differences\n"
    assert main(["compare", "@last"]) == 2
    assert "compare needs two runs or more" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["gone", "other", "link", "none"])
def test_code_that_cannot_be_read_is_a_note(root, capsys, damage):
    """The rest is compared all the same; no link is followed out of the root."""
    first = submit(root)
    (root.parent / "lib.py").write_text("A = 1\n")
    second = submit(root)
    plan = Plan.of(second)
    archive = root / plan.code.archive
    if damage == "none":
        second.write("plan", replace(plan, code=Code(root="/elsewhere")).to_json())
    elif damage == "other":
        archive.write_bytes((root / Plan.of(first).code.archive).read_bytes())
    elif damage == "link":
        archive.rename(root.parent / "elsewhere")
        archive.symlink_to(root.parent / "elsewhere")
    else:
        archive.unlink()
    assert main(["compare", "act/version_0", "act/version_1"]) == 0
    why = {
        "gone": "the copy of its code is not there any more",
        "other": "the copy of its code is damaged",
        "link": "a link leads to the copy of its code",
        "none": "its code was not copied at submission",
    }
    out, err = capsys.readouterr()
    assert f"warning: act/version_1: {why[damage]}.\n" in err
    assert "lib.py" not in out
