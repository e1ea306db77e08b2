"""What is tried happens apart: a crash, a hang or a file there changes nothing here."""

import ast
import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from getiaction_launch.checking import spec
from getiaction_launch.checking.apart import rank
from getiaction_launch.checking.apart.landlock import forbid_writing
from getiaction_launch.checking.script.imports import check_imports
from getiaction_launch.checking.trial import program

MODELS = ["lab.Writing", "keeping.Saving", "keeping.Recording"]


def _has_landlock() -> bool:
    with ThreadPoolExecutor(1) as pool:  # it is for that thread alone
        return pool.submit(forbid_writing, [Path("/")]).result()


NEEDS_LANDLOCK = pytest.mark.skipif(not _has_landlock(), reason="Linux has no Landlock here")


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


@pytest.mark.parametrize("model", [*MODELS, pytest.param("keeping.Native", marks=NEEDS_LANDLOCK)])
def test_trial_leaves_no_file(judge, place, model):
    """Neither here nor among the temporary files, and not by C code either."""
    importlib.import_module(model.partition(".")[0])  # the import itself may write its bytecode
    before = sorted(place.rglob("*"))
    code, _, _ = judge(f"NET --model {model}")
    assert (code, sorted(place.rglob("*"))) == (0, before)


@pytest.mark.parametrize(
    "script", ["writes_first.py", pytest.param("native_file.py", marks=NEEDS_LANDLOCK)]
)
def test_trial_of_a_script_leaves_no_file(judge, place, monkeypatch, script):
    """Where Linux lends no layer, it runs up to there, and the rest is said to be unchecked."""
    monkeypatch.setattr(rank, "cover", lambda *_: [])
    before = sorted(place.rglob("*"))
    code, out, _ = judge(script)
    assert (code, sorted(place.rglob("*"))) == (0, before)
    assert "not checked  a check does not write" in out


def test_trial_of_a_script_says_what_was_tried(judge):
    """As that of a spec, with the names of Python."""
    code, out, _ = judge("trains.py --lr 0.1")
    assert code == 0
    assert "step         ok       trained and validated 2 batches" in out
    assert "logged: train_loss" in out


def test_script_without_torch_is_not_run(judge, place):
    """Nothing says when it has trained enough."""
    code, out, _ = judge("ends.py")
    assert code == 0
    assert "not checked  a script without torch is not run" in out
    assert not list(place.glob("*.bin"))


def test_script_that_takes_long_to_its_fit_is_ended(judge, monkeypatch):
    """The limit is a minute."""
    monkeypatch.setattr(program, "LIMIT_SECONDS", 0.01)
    code, out, _ = judge("trains.py")
    assert code == 0
    assert "not checked  the script has not trained two batches within 0.01 s; --deep" in out


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


def test_module_that_the_copy_of_the_code_will_not_have_is_refused(judge, tmp_path, monkeypatch):
    """Without git, only the directory of the script is copied for the run."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/far_away.py").write_text("from lab import Data, Net")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'src'))\n"
        "import far_away\nfrom lightning import Trainer\n"
        "Trainer(max_epochs=1).fit(far_away.Net(), far_away.Data())\n"
    )
    monkeypatch.chdir(tmp_path)
    code, _, err = judge("scripts/train.py")
    assert code == 2
    assert "far_away.py is imported from where the script lies" in err
    assert f"git init {tmp_path}" in err
    assert judge("--no-snapshot scripts/train.py")[0] == 0
