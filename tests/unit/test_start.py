"""Starting runs from Python: one call with plain values, and a run that can be asked and ended."""

from pathlib import Path

import pytest
import yaml

from getiaction_launch import JobState, list_runs, start
from getiaction_launch.errors import SpecError
from getiaction_launch.launch.programs.start import as_yaml


@pytest.mark.parametrize(
    "value",
    [
        1,
        1e-5,
        0.1,
        True,
        None,
        "text",
        "1",
        "null",
        "",
        "a: b",
        "two\nlines",
        ["\n"],
        [1, "2"],
        {"a": [1]},
    ],
)
def test_plain_values_stay_what_they_are(value):
    """As one line of YAML, which the spec's parser reads: a text of digits stays a text."""
    text = as_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is type(value)
    assert as_yaml(Path("a/b")) == "a/b"


def test_a_run_from_python(tmp_path, monkeypatch):
    """It is watched to its end, says what it has logged, and is equal to the one that is found."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("import sys\nprint('hello', *sys.argv[1:])\n")
    run = start(script=["train.py", "--lr", "0.1"], nodes=2, name="mine")
    lines, seen = list(run.logs(follow=True)), []
    assert sorted(lines) == ["[rank 0] hello --lr 0.1", "[rank 1] hello --lr 0.1"]
    ended = run.wait(seen.append)
    assert ended.state is JobState.SUCCEEDED
    assert seen[-1] == ended == run.status()
    assert run.name == "mine/version_0"


def test_a_run_that_is_cancelled(tmp_path, monkeypatch):
    """It ends before the call returns."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    run = start(script=Path("train.py"))
    assert next(run.logs(follow=True)) == "up"
    assert run.cancel().state is JobState.CANCELLED
    assert run.wait().state is JobState.CANCELLED


def test_a_mistake_is_an_error_with_its_key(tmp_path, monkeypatch):
    """As on the command line, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="unknown class 'Nothing'"):
        start(overrides={"model": "Nothing"})
    assert list_runs("experiments") == []
