"""Specs: read, merged, overridden, judged."""

from pathlib import Path

import pytest

from getiaction_launch.errors import SpecError
from getiaction_launch.spec import leaves, read_spec

BASE = """\
trainer:
  max_epochs: 3
  callbacks:
  - class_path: lightning.pytorch.callbacks.LearningRateMonitor
model:
  class_path: my.Policy
  init_args:
    lr: 1e-5
    sizes: [1, 2]
"""


@pytest.fixture
def base(tmp_path: Path) -> str:
    """Write a spec to start from."""
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return str(path)


def test_exponent_without_a_dot_is_a_number(base):
    """``1e-5`` is a number, in a file and on the command line, as LightningCLI reads it."""
    spec, _ = read_spec([base], [("trainer.min_lr", "3e-4")])
    assert spec["model"]["init_args"]["lr"] == 1e-5
    assert spec["trainer"]["min_lr"] == 3e-4


def test_later_file_overrides_key_by_key(base, tmp_path):
    """The second file changes what it names and keeps the rest; each key knows its file."""
    other = tmp_path / "other.yaml"
    other.write_text("trainer: {max_epochs: 7, precision: 16-mixed}\n")
    spec, origins = read_spec([base, str(other)], [])
    assert (spec["trainer"]["max_epochs"], spec["trainer"]["precision"]) == (7, "16-mixed")
    assert len(spec["trainer"]["callbacks"]) == 1
    assert origins["trainer.max_epochs"] == str(other)
    assert origins["model.class_path"] == base


def test_override_finds_the_arguments_of_a_class(base):
    """``--model.lr`` means ``--model.init_args.lr``, as in LightningCLI."""
    spec, origins = read_spec([base], [("model.lr", "0.1"), ("model.init_args.sizes", "[3]")])
    assert spec["model"] == {"class_path": "my.Policy", "init_args": {"lr": 0.1, "sizes": [3]}}
    assert origins["model.init_args.lr"] == "command line"


@pytest.mark.parametrize("key", ["model", "model.class_path"])
def test_another_class_forgets_the_arguments_of_the_first(base, key):
    """Arguments of one class mean nothing to another."""
    spec, _ = read_spec([base], [(key, "my.Other"), ("model.depth", "4")])
    assert spec["model"] == {"class_path": "my.Other", "init_args": {"depth": 4}}


def test_the_same_class_keeps_its_arguments(base):
    """Naming the class that is there already changes nothing."""
    spec, _ = read_spec([base], [("model", "my.Policy")])
    assert spec["model"]["init_args"]["lr"] == 1e-5


def test_plus_appends_and_dots_reach_the_last_item(base):
    """``--trainer.callbacks+=X`` appends; a dotted key after it configures that item."""
    overrides = [("trainer.callbacks+", "{class_path: my.Probe}"), ("trainer.callbacks.every", "5")]
    spec, _ = read_spec([base], overrides)
    assert spec["trainer"]["callbacks"][1] == {"class_path": "my.Probe", "init_args": {"every": 5}}


def test_a_class_by_its_name_alone_takes_arguments(base):
    """``--trainer.logger=CSVLogger --trainer.logger.save_dir=logs``, as in LightningCLI."""
    overrides = [("trainer.logger", "CSVLogger"), ("trainer.logger.save_dir", "logs")]
    spec, _ = read_spec([base], overrides)
    assert spec["trainer"]["logger"] == {
        "class_path": "CSVLogger",
        "init_args": {"save_dir": "logs"},
    }


def test_keys_through_a_value_are_refused(base):
    """A key below a plain value names that value."""
    with pytest.raises(SpecError, match=r"trainer.max_epochs is 3, which has no 'x'"):
        read_spec([base], [("trainer.max_epochs.x", "1")])


def test_unknown_section_names_the_nearest(base, tmp_path):
    """A misspelt section is caught without importing torch, in a file or on the command line."""
    with pytest.raises(SpecError, match=r"'trainr' is no section.*\nDid you mean 'trainer'"):
        read_spec([base], [("trainr.max_epochs", "1")])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("modle: {}\n")
    with pytest.raises(SpecError, match=r"wrong.yaml: 'modle' is no section.*\n.*'model'"):
        read_spec([str(wrong)], [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("trainer: [1, 2\n", "is not YAML: .* in line 2"),
        ("- a\n- b\n", "holds list, not a mapping"),
        (b"\xff\xfe\x00", "is not YAML: it is no text"),
    ],
)
def test_files_that_are_no_spec_are_named(tmp_path, content, complaint):
    """A broken file is named with the place, not shown as a traceback."""
    path = tmp_path / "broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError, match=complaint):
        read_spec([str(path)], [])


def test_missing_file_is_named():
    """A missing file is named with the system's reason."""
    with pytest.raises(SpecError, match=r"--config nowhere/act.yaml: No such file"):
        read_spec(["nowhere/act.yaml"], [])


def test_leaves_flatten_mappings_alone():
    """Lists and empty mappings are values."""
    assert leaves({"a": {"b": 1, "c": [{"d": 2}]}, "e": {}}) == {
        "a.b": 1,
        "a.c": [{"d": 2}],
        "e": {},
    }
