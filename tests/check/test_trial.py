"""What is tried happens apart: a crash, a hang or a file there changes nothing here."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from getiaction_launch.checking import spec
from getiaction_launch.checking.script.imports import check_imports


def test_crash_of_a_trial_is_not_that_of_the_command(judge):
    """It says how the process ended, and refuses nothing."""
    code, out, _ = judge("NET --model lab.Crashing")
    assert code == 0
    assert "not checked  the process that builds the spec has exited with code 3" in out


def test_trial_that_hangs_is_ended(judge, monkeypatch):
    """The limit is a minute."""
    monkeypatch.setattr(spec, "LIMIT_SECONDS", 0.5)
    code, out, _ = judge("NET --model lab.Hanging")
    assert code == 0
    assert "not checked  took longer than 0.5 s; --deep gives it any time" in out


@pytest.mark.parametrize("model", ["lab.Writing", "keeping.Saving", "keeping.Recording"])
def test_trial_leaves_no_file(judge, place, model):
    """Neither here nor among the temporary files, and not by C code either."""
    importlib.import_module(model.partition(".")[0])  # the import itself may write its bytecode
    before = sorted(place.rglob("*"))
    code, _, _ = judge(f"NET --model {model}")
    assert (code, sorted(place.rglob("*"))) == (0, before)


def test_each_check_is_told_as_json(judge):
    """With verdict, evidence, key and fix; the exit code is the command's own."""
    code, out, _ = judge("NET --trainer.max_epochs=0 --json")
    content = json.loads(out)
    assert content["exit_code"] == code == 2
    (refused,) = (each for each in content["checks"] if each["verdict"] == "refused")
    assert (refused["check"], refused["key"]) == ("trainer", "trainer.max_epochs")
    assert refused["fix"] == content["fix"]


def test_module_in_a_directory_that_is_copied_is_found(tmp_path):
    """Ray has the workers search the directory that it copies."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "mine.py").write_text("")
    script = Path(tmp_path, "scripts", "train.py")
    tree = ast.parse("import mine")
    assert list(check_imports(tree, script))
    assert not list(check_imports(tree, script, str(shipped)))
