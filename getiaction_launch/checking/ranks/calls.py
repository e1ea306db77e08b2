"""What a script's own calls say about nodes, devices and processes: a Trainer, or torch alone."""

import ast
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.ranks.trainer import check_fabric, check_trainer
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_TRAINERS = {"lightning", "pytorch_lightning", "getiaction"}
_METHODS = ("spawn", "fork", "forkserver")
_SPAWNS = {"torch.multiprocessing.spawn", "torch.multiprocessing.start_processes"}
_RENAMED = {
    ("fit", "train_dataloader"): "train_dataloaders",
    ("fit", "val_dataloader"): "val_dataloaders",
    ("test", "test_dataloaders"): "dataloaders",
    ("validate", "val_dataloaders"): "dataloaders",
    ("predict", "predict_dataloaders"): "dataloaders",
}
"""Methods of a Trainer with their former arguments, and what these are called now."""
_FIXED_RANKS = {"rank", "world_size"}
_SAMPLER = "torch.utils.data.DistributedSampler"
_OF_SAMPLER = ("dataset", "num_replicas", "rank")
"""The first parameters of a DistributedSampler."""


def check_calls(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find calls that contradict the launch, or that start processes of their own.

    Args:
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            for finding in _of_call(node, source, topology):
                yield source.judged(finding, node)


def _of_call(node: ast.Call, source: Source, topology: Topology) -> Iterator[Finding]:
    called, at = source.names.of(node.func), source.at(node)
    yield from _of_method(node, at, source)
    given = source.constants.arguments_of(node)
    if called.endswith(".Trainer") and called.partition(".")[0] in _TRAINERS:
        if node.args and not isinstance(node.args[0], ast.Starred):
            what = f"{at}: Trainer({ast.unparse(node.args[0])}, ...) takes keywords only."
            yield refusal("trainer", "Trainer", what, "Name each argument: Trainer(max_epochs=100)")
        yield from check_trainer(at, called, given, topology)
    elif called.endswith(".Fabric") and called.partition(".")[0] in _TRAINERS:
        yield from check_fabric(at, given, topology)
    elif called.endswith(".DDPStrategy") and given.get("start_method") in _METHODS:
        yield refusal(
            "trainer",
            "start_method",
            f"{at}: DDPStrategy(start_method={given['start_method']!r}) starts processes of "
            "its own, and the launcher starts one for each device.",
            "Leave start_method out: DDPStrategy()",
        )
    elif called.endswith(".SLURMEnvironment") and called.partition(".")[0] in _TRAINERS:
        if given.get("auto_requeue") is not False:
            yield refusal(
                "preemption",
                "SLURMEnvironment",
                f"{at}: SLURMEnvironment() requeues the job (auto_requeue=True), and the "
                "launcher does so too.",
                "Remove it, or write SLURMEnvironment(auto_requeue=False)",
            )
    elif called in (_SAMPLER, "torch.utils.data.distributed.DistributedSampler"):
        values = map(source.constants.value_of, node.args)
        named = dict(zip(_OF_SAMPLER, values, strict=False)) | given
        yield from _of_sampler(at, named, topology)
    elif called in _SPAWNS and topology.world_size > 1:
        yield refusal(
            "processes",
            called,
            f"{at}: {called} starts processes of its own in each of {topology.world_size} "
            "workers, and the launcher starts one for each device.",
            "Call the function once, with rank and world size from os.environ['RANK'] and "
            "os.environ['WORLD_SIZE']",
        )
    elif called.endswith("distributed.init_process_group") and called.startswith("torch"):
        first = {"backend": source.constants.value_of(node.args[0])} if node.args else {}
        yield from _of_group(at, first | given, topology)


def _of_method(node: ast.Call, at: str, source: Source) -> Iterator[Finding]:
    """Find arguments of a Trainer's methods that Lightning has renamed."""
    if not isinstance(node.func, ast.Attribute) or _TRAINERS.isdisjoint(source.names.modules):
        return
    method = node.func.attr
    for word in node.keywords:
        former = _RENAMED.get((method, word.arg or ""))
        if former:
            what = f"{at}: Trainer.{method} has no argument {word.arg} any more."
            yield refusal("trainer", str(word.arg), what, f"Use {former}=...")


def _of_sampler(at: str, given: dict[str, Any], topology: Topology) -> Iterator[Finding]:
    """Find a sampler that gives each rank the same samples, or leaves some to nobody."""
    world, ranks, rank = topology.world_size, given.get("num_replicas"), given.get("rank")
    is_other = isinstance(ranks, int) and ranks not in (1, world)
    if is_other or (isinstance(rank, int) and world > 1 and ranks != 1):
        name = "num_replicas" if is_other else "rank"
        why = f"the launch has {world} ranks" if is_other else "every rank gets the same samples"
        yield refusal(
            "ranks",
            name,
            f"{at}: DistributedSampler({name}={given[name]}): {why}.",
            "Leave the sampler out, since Lightning divides the samples; or make it in "
            "train_dataloader without num_replicas and rank",
        )


def _of_group(at: str, given: dict[str, Any], topology: Topology) -> Iterator[Finding]:
    fixed = sorted(name for name in _FIXED_RANKS if isinstance(given.get(name), int))
    world = given.get("world_size")
    is_wrong = isinstance(world, int) and world not in (-1, topology.world_size)
    if is_wrong or ("rank" in fixed and given["rank"] >= 0 and topology.world_size > 1):
        name = "world_size" if is_wrong else "rank"
        yield refusal(
            "processes",
            name,
            f"{at}: init_process_group({name}={given[name]}) contradicts the launch with "
            f"{topology.world_size} workers.",
            "Leave rank and world_size out: they are in the environment (init_method='env://')",
        )
    if given.get("backend") == "nccl" and not topology.gpus_per_node:
        yield refusal(
            "processes",
            "backend",
            f"{at}: init_process_group(backend='nccl') needs GPUs, and this run trains on CPUs.",
            "Use gloo: init_process_group('gloo'), or GPUs: --gpus-per-node 1",
        )
