"""What a check says to do about a file that a trial did not find, or found already."""

import os
from pathlib import Path

import pytest

from getiaction_launch.checking.blame import blame
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.trial.endings import ending_of

SPEC = {"data": {"class_path": "mine.Data", "init_args": {"cache": "cache"}}}


@pytest.fixture(params=["spec", "script"])
def fix(request, tmp_path, monkeypatch):
    """Return the fix for what a spec's class, or a script, has raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("RANK", raising=False)

    def of(code: str) -> str:
        (tmp_path / "mine.py").write_text(code)
        with pytest.raises(OSError, match="Errno") as raised:
            exec(compile(code, str(tmp_path / "mine.py"), "exec"), {})  # noqa: S102 - our own
        place = Place(has_queue=False, settings={}, env_vars={})
        if request.param == "script":
            return ending_of(raised.value, str(tmp_path / "mine.py"), "", place).fix
        return blame(raised.value, "data", SPEC, "data", place).fix

    return of


def test_directory_that_is_made_twice_has_exist_ok(fix):
    """Each rank makes it, and it is no file that lies in another place than the module expects."""
    os.mkdir("frames")  # noqa: PTH102 - as the code below does
    assert fix("import os\nos.makedirs('frames')").endswith("os.makedirs(path, exist_ok=True)")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~/stats.json", "/home/me/stats.json"),
        ("/lab/~/stats.json", "/home/me/stats.json"),
        ("$HOME/stats.json", "/home/me/stats.json"),
    ],
)
def test_path_that_only_a_shell_expands_is_written_out(fix, path, meant):
    """``--stats=~/stats.json``: behind an equals sign, a shell expands no ``~`` either."""
    said = fix(f"open({path!r})")
    assert said.startswith("Nothing expands")
    assert said.endswith(f"Write the path itself: {meant}")


def test_file_that_only_rank_1_misses_is_waited_for(fix, monkeypatch):
    """Rank 0 has come through, so the file may be what it writes meanwhile."""
    said = fix("open('cache/features.pt')")
    assert "prepare_data" not in said
    monkeypatch.setenv("RANK", "1")
    said = fix("open('cache/features.pt')")
    assert "prepare_data" in said
    assert "barrier()" in said


def test_file_beside_the_module_is_named_by_it(fix, tmp_path, monkeypatch):
    """A run starts in the directory of its command, not in that of the module."""
    (tmp_path / "norm.json").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert fix("open('norm.json')").endswith("Path(__file__).parent / 'norm.json'")
    assert Path("../norm.json").exists()
