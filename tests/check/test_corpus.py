"""``check`` refuses what cannot work, with the key and the fix, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

CORPUS = yaml.safe_load((Path(__file__).parent / "corpus.yaml").read_text())


@pytest.mark.parametrize(
    ("words", "key", "fix"), CORPUS["faulty"], ids=[case[0] for case in CORPUS["faulty"]]
)
def test_faulty_run_is_refused_with_its_key_and_a_fix(judge, words, key, fix):
    """The message names what the user has to change, and how."""
    code, out, err = judge(words)
    assert code in (2, 3), out
    assert key in err
    assert fix in err


@pytest.mark.parametrize(
    ("words", "key", "fix"), CORPUS["doubtful"], ids=[case[0] for case in CORPUS["doubtful"]]
)
def test_run_that_lightning_takes_is_doubted_only(judge, words, key, fix):
    """The warning names what was probably meant."""
    code, out, err = judge(words)
    assert code == 0, out + err
    assert "doubtful" in out
    assert key in err
    assert fix in err


@pytest.mark.parametrize("words", CORPUS["undoubted"])
def test_good_run_is_not_doubted(judge, words):
    """Nor is there a warning for what only looks like a fault."""
    code, out, err = judge(words)
    assert code == 0, out + err
    assert "doubtful" not in out


@pytest.mark.parametrize("words", CORPUS["good"])
def test_good_run_is_not_refused(judge, words):
    """No false alarm."""
    code, out, err = judge(words)
    assert code == 0, out + err


def test_each_script_has_a_name_of_its_own():
    """YAML would keep the last one, and the case of the other would judge that."""
    text = (Path(__file__).parent / "scripts.yaml").read_text()
    names = re.findall(r"^([^\s#][^:]*):", text, re.MULTILINE)
    assert len(names) == len(yaml.safe_load(text))
