"""Specs: read, overridden, judged, and shown as they will run."""

import sys
from pathlib import Path

import pytest

from getiaction.cli import CLI
from getiaction_launch.errors import SpecError
from getiaction_launch.launch.submit import prepare, trace
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.plan.spec import leaves, parse, read_spec, read_trainer
from getiaction_launch.plan.strategy import check_strategy

MODULE = """\
print("a module may print when it is imported")

from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

class Policy(BoringModel):
    def __init__(self, lr: float = 0.1, sizes: list[int] | None = None, opts: dict | None = None):
        super().__init__()
        self.save_hyperparameters()

class Other(BoringModel):
    def __init__(self, lr: float = 0.5, sizes: str = "", depth: int = 3):
        super().__init__()
        self.save_hyperparameters()
"""

BASE = """\
trainer:
  max_epochs: 3
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelSummary
model:
  class_path: mine.Policy
  init_args:
    lr: 1e-5
    sizes: [1, 2]
data: mine.BoringDataModule
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a spec to start from, and its classes into a module beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MODULE)
    Path("base.yaml").write_text(BASE)
    return "base.yaml"


def show(config, *overrides, **flags):
    """What a dry run shows of a spec: by dotted key each value, and its origin."""
    words = [tuple(word.removeprefix("--").split("=", 1)) for word in overrides]
    plan, _ = prepare(config=config, overrides=words, **flags)
    values = leaves(parse(plan.arguments))
    return values, trace(plan, values)


# What is passed on


def test_arguments_are_what_was_typed(base):
    """The parser gets the file's text and the overrides to the letter."""
    overrides = [("model.rev", "8152e41"), ("model.tag", "a: b: c"), ("trainer.callbacks+", "X")]
    assert read_spec([base], overrides) == [
        "--config",
        BASE,
        "--model.rev=8152e41",
        "--model.tag=a: b: c",
        "--trainer.callbacks+=X",
    ]


def test_unknown_section_names_the_nearest(base, tmp_path):
    """A misspelt section is caught without importing torch, in a file or on the command line."""
    with pytest.raises(SpecError, match=r"--trainr.*: unknown section 'trainr'.\nDid you mean 'tr"):
        read_spec([base], [("trainr.max_epochs", "1")])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("modle: {}\n")
    with pytest.raises(SpecError, match=r"wrong.yaml: unknown section 'modle'.\n.*'model'"):
        read_spec([str(wrong)], [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("trainer: [1, 2\n", "is not YAML: .* in line 2"),
        ("- a\n- b\n", "holds list, not a mapping"),
        (b"\xff\xfe\x00", "is not YAML: it is not text"),
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


# The Trainer's keys that are read without the parser


@pytest.mark.parametrize(
    ("files", "overrides", "trainer"),
    [
        ([], [], {}),
        (["trainer: {num_nodes: 2, max_epochs: 3}"], [], {"num_nodes": 2}),
        (
            ["trainer: {num_nodes: 2, devices: 1}", "trainer: {devices: 4}"],
            [],
            {"num_nodes": 2, "devices": 4},
        ),
        (["trainer: {num_nodes: 2}"], ["trainer.num_nodes=3"], {"num_nodes": 3}),
        (["trainer: {num_nodes: 2}"], ["trainer={devices: 3}"], {"num_nodes": 2, "devices": 3}),
        ([], ["trainer={num_nodes: 3}", "trainer.num_nodes=4"], {"num_nodes": 4}),
        ([], ["trainer.num_nodes=4", "trainer={num_nodes: 3}"], {"num_nodes": 3}),
        (["trainer: {devices: [0]}"], ["trainer.devices+=1"], {"devices": [0, 1]}),
        (["trainer: {devices: [0]}", "trainer: {devices+: [1]}"], [], {"devices": [0, 1]}),
        (["trainer: {experiment_name: 2026-1-2}"], [], {"experiment_name": "2026-1-2"}),
        ([], ["trainer.experiment_name=1e5"], {"experiment_name": "1e5"}),
        ([], ["trainer.default_root_dir=a: b"], {"default_root_dir": "a: b"}),
        (["trainer: {devices: 2}"], ["trainer.devices=auto"], {"devices": "auto"}),
        ([], ["trainer.experiment_name=null"], {"experiment_name": None}),
        (["seed_everything: 1\ntrainer:\n"], [], {}),
        ([], ["trainer={}"], {}),
        (
            ["trainer: {num_nodes: 2}", "seed_everything: 1\ntrainer:\n"],
            ["trainer.accelerator=cpu"],
            {"accelerator": "cpu"},
        ),
    ],
)
def test_trainers_keys_are_read_as_the_parser_reads_them(base, files, overrides, trainer):
    """Without torch: files in their order, then overrides; and the real parser agrees."""
    for number, content in enumerate(files):
        Path(f"{number}.yaml").write_text(content)
    names = [f"{number}.yaml" for number in range(len(files))]
    arguments = read_spec([base, *names], [tuple(word.split("=", 1)) for word in overrides])
    assert read_trainer(arguments) == trainer
    parsed = parse(arguments)["trainer"] or {}
    assert {key: parsed[key] for key in trainer} == trainer


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("[1]", "Set its keys, for example: --trainer.max_epochs=100"),
        ("max_epochs=3", r"Did you mean --trainer.max_epochs=3\?"),
    ],
)
def test_a_trainer_that_is_not_a_mapping_is_refused(base, text, fix):
    """The fix is what was perhaps meant, ready to paste."""
    with pytest.raises(SpecError, match=rf"is not a mapping of the Trainer's keys.\n{fix}"):
        read_trainer(read_spec([base], [("trainer", text)]))


# What is shown, which is what the parser makes of it


def test_what_is_shown_is_what_runs(base):
    """The values are those of the objects that are built, though a module prints when imported."""
    overrides = [("model.lr", "3e-4"), ("seed_everything", "7")]
    plan, _ = prepare(config=[base], overrides=overrides)
    shown = parse(plan.arguments)
    built = CLI(plan.arguments, run=False)
    assert shown["model"]["init_args"].items() <= built.model.hparams.items()
    assert built.trainer.max_epochs == shown["trainer"]["max_epochs"] == 3
    assert shown["seed_everything"] == 7


def test_each_value_has_its_origin(base):
    """A file, the command line, a flag of the launcher's, or the default of a class."""
    values, origins = show([base], "--trainer.min_epochs=1", "--model.lr=3e-4", nodes=2, name="a")
    keys = {
        "trainer.max_epochs": (3, "base.yaml"),
        "trainer.min_epochs": (1, "command line"),
        "trainer.num_nodes": (2, "command line (--nodes)"),
        "trainer.experiment_name": ("a", "command line (--name)"),
        "trainer.max_steps": (-1, "default"),
        "model.class_path": ("mine.Policy", "base.yaml"),
        "model.init_args.lr": (3e-4, "command line"),
        "model.init_args.sizes": ([1, 2], "base.yaml"),
        "model.init_args.opts": (None, "default"),
        "seed_everything": (True, "default"),
    }
    assert {key: (values[key], origins[key]) for key in keys} == keys
    assert origins.keys() == values.keys()


def test_both_devices_and_accelerator_come_from_one_flag(base):
    """``--gpus-per-node`` says both."""
    values, origins = show([base], gpus_per_node=0)
    assert values["trainer.accelerator"] == "cpu"
    assert origins["trainer.accelerator"] == "command line (--gpus-per-node)"
    assert origins["trainer.devices"] == "default"


def test_later_file_overrides_key_by_key(base, tmp_path):
    """The second file changes what it names and keeps the rest; each key knows its file."""
    Path("sub").mkdir()
    Path("sub/other.yaml").write_text("trainer: {max_epochs: 7, precision: 16-mixed}\n")
    values, origins = show([base, str(tmp_path / "sub/other.yaml")])
    assert (values["trainer.max_epochs"], origins["trainer.max_epochs"]) == (7, "sub/other.yaml")
    assert values["trainer.precision"] == "16-mixed"
    assert len(values["trainer.callbacks"]) == 1
    assert origins["model.class_path"] == origins["trainer.callbacks"] == "base.yaml"


def test_a_file_that_lies_elsewhere_is_named_in_full(base, tmp_path, monkeypatch):
    """Its origin can be opened from where the command was typed."""
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monkeypatch.syspath_prepend(tmp_path)
    _, origins = show([f"../{base}"])
    assert Path(origins["trainer.max_epochs"]).samefile(tmp_path / base)


def test_a_class_by_its_name_alone(base):
    """A short name is shown in full, and what is below it are the defaults of the class."""
    values, origins = show([base], "--data=DotDataModule", "--data.num_episodes=5")
    assert values["data.class_path"] == "getiaction.demo.DotDataModule"
    assert origins["data.class_path"] == "command line"
    assert origins["data.init_args.num_episodes"] == "command line"
    assert origins["data.init_args.val_split"] == "default"


def test_mapping_that_is_no_class_is_replaced(base):
    """Of ``{a: 1}`` under ``{b: 2}`` nothing is left, and so it is shown."""
    values, origins = show([base], "--model.opts={a: 1}", "--model.init_args.opts={b: 2}")
    assert values["model.init_args.opts.b"] == 2
    assert "model.init_args.opts.a" not in values
    assert origins["model.init_args.opts.b"] == "command line"


@pytest.mark.parametrize("key", ["model", "model.class_path"])
def test_another_class_keeps_the_arguments_that_it_knows(base, key):
    """Arguments that do not fit the new class are dropped, with their origins; others stay."""
    values, origins = show([base], f"--{key}=mine.Other", "--model.depth=4")
    model = {key: value for key, value in values.items() if key.startswith("model.")}
    assert model == {
        "model.class_path": "mine.Other",
        "model.init_args.lr": 1e-5,
        "model.init_args.sizes": "",
        "model.init_args.depth": 4,
    }
    assert origins["model.class_path"] == origins["model.init_args.depth"] == "command line"
    assert origins["model.init_args.lr"] == "base.yaml"


def test_the_same_class_keeps_its_arguments(base):
    """Naming the class that is there already changes nothing."""
    assert show([base], "--model=mine.Policy")[0]["model.init_args.lr"] == 1e-5


def test_a_section_at_once_has_one_origin_for_each_key(base):
    """``--trainer='{max_epochs: 7}'`` is the command line's word on max_epochs alone."""
    values, origins = show([base], "--trainer={max_epochs: 7}")
    assert (values["trainer.max_epochs"], len(values["trainer.callbacks"])) == (7, 1)
    assert origins["trainer.max_epochs"] == "command line"
    assert origins["trainer.callbacks"] == "base.yaml"
    assert origins["trainer.min_epochs"] == "default"


def test_plus_appends_and_dots_reach_the_last_item(base):
    """``--trainer.callbacks+=X`` appends; a dotted key after it configures that item."""
    words = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.log_momentum=true"]
    values, origins = show([base], *words)
    first, last = values["trainer.callbacks"]
    assert first["class_path"] == "lightning.pytorch.callbacks.ModelSummary"
    assert last["class_path"] == "lightning.pytorch.callbacks.LearningRateMonitor"
    assert last["init_args"]["log_momentum"] is True
    assert origins["trainer.callbacks"] == "command line"
    values, origins = show([base], "--trainer.callbacks.max_depth=7")
    assert values["trainer.callbacks"][0]["init_args"] == {"max_depth": 7}
    assert origins["trainer.callbacks"] == "command line"


def test_a_class_in_the_trainer_takes_arguments(base):
    """``--trainer.logger=CSVLogger --trainer.logger.save_dir=logs``, as in LightningCLI."""
    values, origins = show([base], "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs")
    assert values["trainer.logger.class_path"] == "lightning.pytorch.loggers.CSVLogger"
    assert values["trainer.logger.init_args.save_dir"] == "logs"
    assert origins["trainer.logger.init_args.save_dir"] == "command line"
    assert origins["trainer.logger.init_args.prefix"] == "default"


def test_a_section_may_lie_in_a_file_of_its_own(base):
    """``--model=model.yaml`` is the command line's word on what that file sets, and on no more."""
    Path("model.yaml").write_text("class_path: mine.Other\ninit_args: {lr: 0.25}\n")
    values, origins = show([base], "--model=model.yaml")
    assert (values["model.class_path"], values["model.init_args.lr"]) == ("mine.Other", 0.25)
    assert origins["model.class_path"] == origins["model.init_args.lr"] == "command line"
    assert origins["model.init_args.depth"] == "default"


@pytest.mark.parametrize("content", [None, "{", "- a"])
def test_text_that_looks_like_a_file_is_a_value_too(base, content):
    """A parameter that takes a path has it as its value, whatever lies there."""
    if content:
        Path("lr.yaml").write_text(content)
    values, origins = show([base], "--model=mine.Other", "--model.sizes=lr.yaml")
    assert values["model.init_args.sizes"] == "lr.yaml"
    assert origins["model.init_args.sizes"] == "command line"


def test_a_spec_that_cannot_be_written_is_refused(base):
    """Lightning would refuse it too, when it saves config.yaml; as a number, the value is fine."""
    with Path("mine.py").open("a") as module:
        module.write(
            "class Odd(BoringModel):\n"
            "    def __init__(self, opts: dict = {'scale': 2j}):\n"
            "        super().__init__()\n"
        )
    with pytest.raises(SpecError, match=r"(?s)cannot be written as YAML.*'scale'.*2j"):
        show([base], "--model=mine.Odd")
    values, _ = show([base], "--model=mine.Odd", "--model.opts={scale: 2}")
    assert values["model.init_args.opts.scale"] == 2


def test_leaves_flatten_mappings_alone():
    """Lists and empty mappings are values."""
    assert leaves({"a": {"b": 1, "c": [{"d": 2}]}, "e": {}}) == {
        "a.b": 1,
        "a.c": [{"d": 2}],
        "e": {},
    }


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("trainer: {strategy: ddp_spawn}", "trainer.strategy='ddp_spawn'"),
        ("trainer: {strategy: ddp_notebook_find_unused_parameters_true}", "ddp_notebook"),
        ("trainer.strategy: ddp_fork", "ddp_fork"),
        (
            "trainer: {strategy: {class_path: DDPStrategy, init_args: {start_method: fork}}}",
            "start_method='fork'",
        ),
        ("trainer: {strategy: {class_path: DDPStrategy, start_method: spawn}}", "'spawn'"),
        ("trainer: {strategy: ddp}", None),
        ("trainer: {strategy: {class_path: DDPStrategy, init_args: {start_method: popen}}}", None),
        ("trainer: {}", None),
    ],
)
def test_strategies_that_start_processes_are_refused(text, refused):
    """Before a run is queued, with the strategy that works as the fix."""
    plan = Plan("a", "", ["--config", text], [], Topology(1, 2, 0), "")
    if refused is None:
        check_strategy(plan)
        return
    with pytest.raises(SpecError, match=r"--trainer\.strategy=ddp") as caught:
        check_strategy(plan)
    assert refused in str(caught.value)


def test_a_strategy_on_the_command_line_is_refused():
    """An override is what counts."""
    arguments = ["--config", "trainer: {strategy: ddp}", "--trainer.strategy=ddp_spawn"]
    plan = Plan("a", "", arguments, [], Topology(1, 2, 0), "")
    with pytest.raises(SpecError, match="ddp_spawn"):
        check_strategy(plan)
