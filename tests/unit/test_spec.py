"""Specs: read, merged, overridden, judged."""

from pathlib import Path

import pytest

from getiaction_launch.errors import SpecError
from getiaction_launch.plan.spec import leaves, read_spec

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


def test_numbers_are_read_as_the_real_parser_reads_them(base):
    """``1e-5`` is a number and a date is text, in a file and on the command line."""
    spec = read_spec(
        [base], [("trainer.min_lr", "3e-4"), ("trainer.experiment_name", "2026-01-02")]
    )
    assert spec.view["model"]["init_args"]["lr"] == 1e-5
    assert spec.view["trainer"]["min_lr"] == 3e-4
    assert spec.trainer["experiment_name"] == "2026-01-02"


def test_arguments_are_what_was_typed(base):
    """The real parser gets the file's text and the overrides to the letter."""
    overrides = [("model.rev", "8152e41"), ("model.tag", "a: b: c"), ("trainer.callbacks+", "X")]
    assert read_spec([base], overrides).arguments == [
        "--config",
        BASE,
        "--model.rev=8152e41",
        "--model.tag=a: b: c",
        "--trainer.callbacks+=X",
    ]


def test_later_file_overrides_key_by_key(base, tmp_path):
    """The second file changes what it names and keeps the rest; each key knows its file."""
    other = tmp_path / "other.yaml"
    other.write_text("trainer: {max_epochs: 7, precision: 16-mixed}\n")
    spec = read_spec([base, str(other)], [])
    assert (spec.trainer["max_epochs"], spec.trainer["precision"]) == (7, "16-mixed")
    assert len(spec.trainer["callbacks"]) == 1
    assert spec.origins["trainer.max_epochs"] == str(other)
    assert spec.origins["model.class_path"] == base


def test_override_finds_the_arguments_of_a_class(base):
    """``--model.lr`` means ``--model.init_args.lr``; a mapping that is no class is replaced."""
    overrides = [("model.lr", "0.1"), ("model.init_args.sizes", "[3]"), ("model.opts", "{b: 2}")]
    spec = read_spec([base], [("model.opts", "{a: 1}"), *overrides])
    assert spec.view["model"] == {
        "class_path": "my.Policy",
        "init_args": {"lr": 0.1, "sizes": [3], "opts": {"b": 2}},
    }
    assert spec.origins["model.init_args.lr"] == "command line"


@pytest.mark.parametrize("key", ["model", "model.class_path"])
def test_another_class_forgets_the_arguments_of_the_first(base, key):
    """Arguments of one class mean nothing to another, nor do their origins."""
    spec = read_spec([base], [(key, "my.Other"), ("model.depth", "4")])
    assert spec.view["model"] == {"class_path": "my.Other", "init_args": {"depth": 4}}
    assert "model.init_args.lr" not in spec.origins
    assert spec.origins["model.class_path"] == "command line"


def test_the_same_class_keeps_its_arguments(base):
    """Naming the class that is there already changes nothing."""
    assert read_spec([base], [("model", "my.Policy")]).view["model"]["init_args"]["lr"] == 1e-5


def test_a_section_at_once_has_one_origin_for_each_key(base):
    """``--trainer='{max_epochs: 7}'`` is the command line's word on max_epochs."""
    spec = read_spec([base], [("trainer", "{max_epochs: 7}")])
    assert (spec.trainer["max_epochs"], len(spec.trainer["callbacks"])) == (7, 1)
    assert spec.origins["trainer.max_epochs"] == "command line"


def test_plus_appends_and_dots_reach_the_last_item(base):
    """``--trainer.callbacks+=X`` appends; a dotted key after it configures that item."""
    overrides = [("trainer.callbacks+", "{class_path: my.Probe}"), ("trainer.callbacks.every", "5")]
    spec = read_spec([base], overrides)
    probe = {"class_path": "my.Probe", "init_args": {"every": 5}}
    assert spec.trainer["callbacks"][1] == probe


def test_a_class_by_its_name_alone_takes_arguments(base):
    """``--trainer.logger=CSVLogger --trainer.logger.save_dir=logs``, as in LightningCLI."""
    overrides = [("trainer.logger", "CSVLogger"), ("trainer.logger.save_dir", "logs")]
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    assert read_spec([base], overrides).trainer["logger"] == logger


@pytest.mark.parametrize("text", ["null", "", "{}"])
def test_empty_trainer_has_the_defaults(base, text):
    """An empty section is no mistake; one that is no mapping is."""
    assert read_spec([base], [("trainer", text)]).trainer is not None
    with pytest.raises(SpecError, match=r"trainer=\[1\] is no mapping"):
        _ = read_spec([base], [("trainer", "[1]")]).trainer


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
