"""Sharded strategies on several nodes need a directory that all of them share."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.plan.sharding import check_sharding
from getiaction_launch.worker.saving.sharding import check_strategy

SHARDED = [
    ["--trainer.strategy=fsdp"],
    ["--trainer.strategy=deepspeed_stage_2"],
    ["--trainer.strategy=FSDPStrategy"],
    ["--trainer.strategy.class_path=lightning.pytorch.strategies.ModelParallelStrategy"],
    ["--config", "trainer: {strategy: {class_path: lightning.pytorch.strategies.FSDPStrategy}}"],
    ["--config", "trainer: {strategy: ddp}", "--trainer.strategy=fsdp_cpu_offload"],
]


def plan(arguments: list[str], num_nodes: int = 2, root: str = "s3://b/x") -> Plan:
    """A plan of a spec."""
    return Plan("act", root, arguments, [], Topology(num_nodes, 1, 1), "")


@pytest.mark.parametrize("arguments", SHARDED, ids=lambda words: words[-1])
def test_sharded_spec_on_several_nodes_at_a_url_is_refused(arguments):
    """Before anything is queued, with the fix; one node, or a directory, is fine."""
    with pytest.raises(CheckError, match=r"2 nodes(.|\n)*--trainer\.default_root_dir="):
        check_sharding(plan(arguments))
    check_sharding(plan(arguments, num_nodes=1))
    check_sharding(plan(arguments, root="/shared/x"))


@pytest.mark.parametrize("words", ["ddp", "auto", "ddp_find_unused_parameters_true", "null"])
def test_other_strategies_are_kept(words):
    """Those that write one file."""
    check_sharding(plan([f"--trainer.strategy={words}"]))
    check_sharding(plan([]))


def test_sharded_script_on_several_nodes_at_a_url_is_refused(monkeypatch):
    """Its workers find out, before they train."""
    monkeypatch.setenv("GETIACTION_LAUNCH_RUN", "s3://b/x/act/version_0")
    check_strategy(SimpleNamespace(strategy=DDPStrategy(), num_nodes=2))
    check_strategy(SimpleNamespace(strategy=FSDPStrategy(), num_nodes=1))
    with pytest.raises(CheckError, match="strategy='FSDPStrategy'"):
        check_strategy(SimpleNamespace(strategy=FSDPStrategy(), num_nodes=2))
    monkeypatch.setenv("GETIACTION_LAUNCH_RUN", "/shared/x/act/version_0")
    check_strategy(SimpleNamespace(strategy=FSDPStrategy(), num_nodes=2))
