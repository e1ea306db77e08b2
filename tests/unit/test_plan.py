"""Plans: topology from the Trainer's own words, and what the launcher's flags set."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from getiaction_launch.errors import CheckError, RecordError, SpecError
from getiaction_launch.launch.submit import prepare
from getiaction_launch.plan.plan import (
    Plan,
    Restarts,
    Saving,
    SweepPoint,
    Topology,
    Uploading,
    read_topology,
)


def no_gpus(_num_nodes: int) -> int:
    """A cluster without GPUs."""
    return 0


def four_gpus(num_nodes: int) -> int:
    """Nodes that share four GPUs."""
    return 4 // num_nodes


def unknown_gpus(_num_nodes: int) -> None:
    """A cluster that tells only its jobs."""
    return


@pytest.mark.parametrize(
    ("trainer", "free_gpus", "topology"),
    [
        ({}, no_gpus, Topology(1, 1, 0)),
        ({"num_nodes": 2}, no_gpus, Topology(2, 1, 0)),
        ({"num_nodes": 2}, four_gpus, Topology(2, 2, 2)),
        ({"num_nodes": 2, "devices": 1}, four_gpus, Topology(2, 1, 1)),
        ({"devices": "auto", "accelerator": "cpu"}, four_gpus, Topology(1, 1, 0)),
        ({"devices": 2, "accelerator": "cpu"}, unknown_gpus, Topology(1, 2, 0)),
        ({"devices": 8, "accelerator": "gpu"}, unknown_gpus, Topology(1, 8, 8)),
        ({"devices": [0, 1]}, four_gpus, Topology(1, 2, 2)),
        ({"devices": "0,1,2"}, four_gpus, Topology(1, 3, 3)),
        ({"num_nodes": "2", "devices": "1"}, four_gpus, Topology(2, 1, 1)),
        ({"devices": "3"}, four_gpus, Topology(1, 3, 3)),
        ({"devices": -1}, four_gpus, Topology(1, 4, 4)),
        ({"devices": "-1"}, four_gpus, Topology(1, 4, 4)),
    ],
)
def test_topology_is_what_the_trainer_says(trainer, free_gpus, topology):
    """Nodes, workers and GPUs come from num_nodes, devices and accelerator."""
    assert read_topology(trainer, free_gpus) == topology


@pytest.mark.parametrize(
    ("trainer", "free_gpus", "complaint"),
    [
        ({"num_nodes": 0}, no_gpus, "trainer.num_nodes=0 must be a whole number, 1 or more"),
        ({"num_nodes": "two"}, no_gpus, "trainer.num_nodes='two' must be a whole number"),
        ({"devices": 0}, no_gpus, "trainer.devices=0 starts no worker"),
        ({"devices": []}, no_gpus, "starts no worker"),
        ({"num_nodes": True}, no_gpus, "trainer.num_nodes='True' must be a whole number"),
        ({"devices": [0, 2]}, four_gpus, r"(?s)\[0, 2\] picks some.*CUDA_VISIBLE_DEVICES=0,2 .*=2"),
        ({"devices": "all"}, no_gpus, "trainer.devices='all' starts no worker"),
        ({"devices": "auto"}, unknown_gpus, "is not known before the job starts"),
        ({"accelerator": "gpu"}, no_gpus, "starts no worker"),
    ],
)
def test_impossible_geometry_is_refused(trainer, free_gpus, complaint):
    """The user's own key and value are named."""
    with pytest.raises(SpecError, match=complaint):
        read_topology(trainer, free_gpus)


def test_plan_survives_json():
    """What a node reads is what was decided."""
    words = ["--name=n"]
    plan = Plan("n", "/r", ["--trainer.lr=1e-5"], [], Topology(2, 4, 4), "/w", words, {"A": "b"})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.to_json()["sweep"] == {}
    point = replace(plan, sweep=SweepPoint("act-1", {"model.lr": "1e-5"}))
    assert Plan.from_json(json.loads(json.dumps(point.to_json()))) == point


OLD_PLAN = """\
{
  "schema_version": 1,
  "name": "act", "root": "/r", "arguments": ["--trainer.lr=1e-5"], "script": [],
  "topology": {"num_nodes": 2, "workers_per_node": 4, "gpus_per_node": 4},
  "working_directory": "/w", "words": [], "env_vars": {"A": "b"}, "forward_env_vars": null,
  "checkpoint_period_minutes": 5,
  "checkpoint_when_busy": "skip",
  "checkpoint_failure_limit_minutes": 7.5,
  "upload_period_seconds": 11,
  "upload_limit_minutes": 12,
  "budgets": {"crashes": 1, "node_failures": 2, "interruptions": null},
  "sweep": {}, "spec": {"trainer": {"max_epochs": 3}}, "origins": {"trainer.max_epochs": "a.yaml"}
}
"""


def test_a_plan_of_an_earlier_version_is_read():
    """Its flat settings and its ``budgets`` are found in their groups."""
    plan = Plan.from_json(json.loads(OLD_PLAN))
    assert plan.topology == Topology(2, 4, 4)
    assert plan.saving == Saving(5, "skip", 7.5)
    assert plan.uploading == Uploading(11, 12)
    assert plan.restarts == Restarts(1, 2, None)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"name": "act"', '"name": 7', "name=7 must be text"),
        ('"name": "act", ', "", "the key name is missing"),
        ('"num_nodes": 2', '"num_nodes": "2"', "topology.num_nodes='2' must be a whole number"),
        ('"skip"', '"rest"', "saving.when_busy='rest' must be one of wait, skip"),
        ('{"crashes": 1, "node_failures": 2, "interruptions": null}', "[]", "restarts=.. must be"),
        (OLD_PLAN, "[1]", "must be a mapping"),
        ('"sweep": {}', '"sweep": {"group": 1}', "sweep.group=1 must be text"),
    ],
)
def test_a_damaged_plan_is_refused_by_file_and_key(old, new, complaint):
    """A wrong type is not carried to the place where it would break something else."""
    assert old in OLD_PLAN
    with pytest.raises(RecordError, match=rf"plan\.json: .*{complaint}"):
        Plan.from_json(json.loads(OLD_PLAN.replace(old, new)))


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a spec into an empty working directory of a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("act.yaml").write_text("trainer: {max_epochs: 3, accelerator: cpu, num_nodes: 4}\n")
    return "act.yaml"


def test_flags_set_the_trainers_own_keys(spec):
    """``--nodes`` beats the file, and is written where the Trainer reads it."""
    plan, _ = prepare(config=[spec], nodes=2, name="pusht")
    assert plan.topology == Topology(2, 1, 0)
    assert plan.name == "pusht"
    assert plan.arguments[2:] == ["--trainer.num_nodes=2", "--trainer.experiment_name=pusht"]


def test_words_reproduce_the_plan(spec, tmp_path):
    """They are what an sbatch script hands to its nodes: what nodes read, in full."""
    plan, _ = prepare(
        config=[spec],
        overrides=[("trainer.max_epochs", "5")],
        nodes=2,
        gpus_per_node=0,
        name="a",
        settings={"restarts.crashes": ("--max-crashes", 2)},
        sweep=SweepPoint("a-1", {"seed_everything": "3"}),
    )
    cluster, *words = plan.words
    assert Path(cluster.removeprefix("--cluster=")).is_absolute()
    assert words == [
        "--nodes=2",
        "--gpus-per-node=0",
        "--name=a",
        "--max-crashes=2",
        f"--config={tmp_path}/act.yaml",
        "--trainer.max_epochs=5",
        "--seed_everything=3",
    ]
    assert plan.arguments[2:4] == ["--trainer.max_epochs=5", "--seed_everything=3"]
    Path("train.py").touch()
    plan, _ = prepare(script=["train.py", "-x"], sweep=SweepPoint("a-1", {"lr": "3"}))
    assert plan.words[1:] == ["train.py", "-x", "--lr=3"]
    assert plan.script == [f"{tmp_path}/train.py", "-x", "--lr=3"]


def test_two_flags_for_one_fact_must_agree(spec):
    """``--nodes 2`` beside ``--trainer.num_nodes=3`` is refused, beside =2 or auto it is fine."""
    with pytest.raises(SpecError, match=r"--nodes sets trainer.num_nodes=2, but .*=3 is given"):
        prepare(config=[spec], nodes=2, overrides=[("trainer.num_nodes", "3")])
    plan, _ = prepare(config=[spec], nodes=2, overrides=[("trainer.num_nodes", "2")])
    assert plan.topology.num_nodes == 2
    plan, _ = prepare(config=[spec], gpus_per_node=0, overrides=[("trainer.accelerator", "auto")])
    assert plan.arguments[-1] == "--trainer.accelerator=cpu"


def test_relative_root_lies_where_the_command_was_typed(spec, tmp_path):
    """Without a storage root, a relative default_root_dir lies under the current directory."""
    plan, _ = prepare(config=[spec])
    assert plan.root == str(tmp_path / "experiments")
    plan, _ = prepare(config=[spec], storage_root="/data")
    assert plan.root == "/data/experiments"
    plan, _ = prepare(config=[spec], overrides=[("trainer.default_root_dir", "file:///abs/runs")])
    assert plan.root == "/abs/runs"


def test_object_storage_is_not_mangled(spec):
    """A URL stays one, wherever it is said; what is none is never taken for another place."""
    plan, _ = prepare(config=[spec], overrides=[("trainer.default_root_dir", "s3://bucket/x")])
    assert plan.root == "s3://bucket/x"
    plan, _ = prepare(config=[spec], storage_root="s3://bucket/team")
    assert plan.root == "s3://bucket/team/experiments"
    assert "--storage-root=s3://bucket/team" in plan.words
    with pytest.raises(SpecError, match="s4://bucket/x"):
        prepare(config=[spec], overrides=[("trainer.default_root_dir", "s4://bucket/x")])


def test_script_is_checked_before_it_starts(spec, tmp_path):
    """A missing script, and one with a syntax error, are found at once."""
    with pytest.raises(SpecError, match=r"script 'gone.py': No such file"):
        prepare(script=["gone.py"])
    Path("bad.py").write_text("def f(:\n")
    with pytest.raises(SpecError, match=r"script 'bad.py' is not Python"):
        prepare(script=["bad.py"])
    Path("good.py").write_text("pass\n")
    plan, _ = prepare(script=["good.py", "--lr", "1"], nodes=2, workers_per_node=3)
    assert plan.script == [str(tmp_path / "good.py"), "--lr", "1"]
    assert (plan.topology, plan.name) == (Topology(2, 3, 0), "good")
    with pytest.raises(SpecError, match=r"give a spec or a script, not both\."):
        prepare(script=["good.py"], config=[spec])
    with pytest.raises(SpecError, match=r"give a spec or a script to train\."):
        prepare()


def test_name_is_one_directory(spec):
    """A name that would place the run elsewhere is refused."""
    for name in ("../elsewhere", "a/b", ".."):
        with pytest.raises(SpecError, match='a name must not contain "/"'):
            prepare(config=[spec], name=name)


def test_workers_per_node_of_a_spec_is_its_devices(spec):
    """One fact, one place: for a spec the fix is pasteable."""
    with pytest.raises(SpecError, match=r"--trainer\.devices=2"):
        prepare(config=[spec], workers_per_node=2)


def test_script_that_wants_gpus_does_not_get_cpus(spec):
    """Without GPUs, --gpus-per-node is refused and not turned into CPU workers."""
    assert spec
    Path("train.py").touch()
    plan, backend = prepare(script=["train.py"], nodes=2, gpus_per_node=4)
    with pytest.raises(CheckError, match="2 nodes x 4 GPUs = 8 GPUs, but this machine has none"):
        backend.check(plan)
    plan, backend = prepare(script=["train.py"], nodes=2, gpus_per_node=0)
    backend.check(plan)


def test_odd_names_and_roots_are_text(spec):
    """A number where a name or a path is wanted is taken as it is written."""
    overrides = [("trainer.experiment_name", "42"), ("trainer.default_root_dir", "7")]
    plan, _ = prepare(config=[spec], overrides=overrides)
    assert (plan.name, Path(plan.root).name) == ("42", "7")


def test_gpus_are_shared_out_and_counted(spec, monkeypatch):
    """Nodes on one machine share its GPUs; more than there are is refused before the start."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    plan, backend = prepare(config=[spec], nodes=2, gpus_per_node=2)
    backend.check(plan)
    assert "--trainer.accelerator=gpu" in plan.arguments
    commands = backend.describe(plan)
    assert "CUDA_VISIBLE_DEVICES=3,5 " in commands[0]
    assert "CUDA_VISIBLE_DEVICES=6,7 " in commands[1]
    Path("train.py").touch()
    plan, backend = prepare(script=["train.py"], nodes=2, gpus_per_node=4)
    with pytest.raises(CheckError, match="2 nodes x 4 GPUs = 8 GPUs, but this machine has 4"):
        backend.check(plan)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(CheckError, match="2 nodes need at least 2 GPUs, but this machine has 1"):
        prepare(config=[spec], nodes=2, overrides=[("trainer.accelerator", "auto")])


def test_script_moves_with_its_working_directory(tmp_path):
    """Where the working directory was copied, the copy of a script in it runs; others stay."""
    plan = Plan(
        "a", "/x", [], ["/home/me/lab/act/train.py", "--lr"], Topology(1, 1, 0), "/home/me/lab"
    )
    moved = plan.moved_to(tmp_path)
    assert moved.script == [f"{tmp_path}/act/train.py", "--lr"]
    assert moved.working_directory == str(tmp_path)
    elsewhere = replace(plan, script=["/home/me/train.py"])
    assert elsewhere.moved_to(tmp_path) == elsewhere
    assert plan.moved_to(Path("/home/me/lab")) == plan
