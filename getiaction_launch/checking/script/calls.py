"""What a script's own calls say about nodes, devices and processes: a Trainer, or torch alone."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.constants import Constants
from getiaction_launch.checking.script.reach import always_executed
from getiaction_launch.checking.script.trainer import check_fabric, check_trainer
from getiaction_launch.plan.plan import Topology

_TRAINERS = {"lightning", "pytorch_lightning", "getiaction"}
_METHODS = ("spawn", "fork", "forkserver")
_SPAWNS = {"torch.multiprocessing.spawn", "torch.multiprocessing.start_processes"}
_FIXED_RANKS = {"rank", "world_size"}


class Names:
    """What each name in a script means, as far as its imports say so.

    Args:
        tree: The syntax tree of the script.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._names: dict[str, str] = {}
        self.modules: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.modules.add(alias.name.partition(".")[0])
                    short = alias.asname or alias.name.partition(".")[0]
                    self._names[short] = alias.name if alias.asname else short
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.modules.add(node.module.partition(".")[0])
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def of(self, node: ast.expr) -> str:
        """Return the whole name of what is called; empty if it is not known."""
        text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        first, dot, rest = text.partition(".")
        return f"{self._names[first]}{dot}{rest}" if first in self._names else ""


def check_calls(tree: ast.Module, script: Path, topology: Topology) -> Iterator[Finding]:
    """Find calls that contradict the launch, or that start processes of their own.

    What stands below an ``if`` or a ``try``, or in a function that only they call, may never be
    reached, so it is only a doubt.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script.
        topology: Nodes and workers of the run.
    """
    names, constants = Names(tree), Constants(tree)
    certain = always_executed(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for finding in _of_call(node, names, constants, script, topology):
                yield finding if node in certain else replace(finding, verdict="doubtful")


def _of_call(
    node: ast.Call, names: Names, constants: Constants, script: Path, topology: Topology
) -> Iterator[Finding]:
    called = names.of(node.func)
    at = f"{script.name}:{node.lineno}"
    given = constants.arguments_of(node)
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
        first = {"backend": constants.value_of(node.args[0])} if node.args else {}
        yield from _of_group(at, first | given, topology)


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
