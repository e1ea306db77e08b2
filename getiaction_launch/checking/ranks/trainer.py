"""What a script writes into Lightning's Trainer, compared with the launch."""

import ast
import difflib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.former import FORMER_STRATEGIES, SUCCESSORS
from getiaction_launch.errors import counted, nearest_first
from getiaction_launch.plan.plan import Topology

_OWN_PROCESSES = ("ddp_spawn", "ddp_fork", "ddp_notebook")
_POSITIVE = ("max_epochs", "max_steps", "limit_train_batches")
_STRATEGIES = ("ddp", "fsdp", "deepspeed", "auto", "ddp_find_unused_parameters_true")
_NEAR = 0.8
_PRECISIONS = {
    "8": "16-mixed",
    "fp16": "16-mixed",
    "float16": "16-mixed",
    "half": "16-mixed",
    "mixed": "16-mixed",
    "amp": "16-mixed",
    "16_mixed": "16-mixed",
    "fp32": "32-true",
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "bf16_mixed": "bf16-mixed",
}
"""Names of precisions elsewhere, and those of Lightning."""
_OTHER_DEVICES = ("tpu", "ipu", "hpu", "gpus", "ddp", "ddp_cpu", "dp", "horovod")
_FILE = {
    "lightning": "pytorch/trainer/trainer.py",
    "pytorch_lightning": "trainer/trainer.py",
}
"""Where each package has its Trainer."""


def check_trainer(
    at: str, called: str, given: dict[str, Any], topology: Topology
) -> Iterator[Finding]:
    """Find arguments of a Trainer that it does not take, or that contradict the launch.

    Args:
        at: File and line of the call, for messages.
        called: Whole name of the class that is called.
        given: The arguments by keyword; None for a value that is not known.
        topology: Nodes and workers of the run.
    """
    yield from _of_names(at, called, given)
    yield from _of_geometry(at, given, topology)
    yield from _of_devices(at, given, topology)
    yield from _of_strategy(at, given)
    for name in ("max_epochs", "max_steps"):
        value = given.get(name)
        if isinstance(value, int) and value < -1:
            what = f"{at}: Trainer({name}={value}) must be -1 or more."
            yield refusal("trainer", name, what, f"Write {name}=100, or leave it out")
    for name in _POSITIVE:
        value = given.get(name)
        if not isinstance(value, bool) and value is not None and value == 0:
            yield refusal(
                "trainer",
                name,
                f"{at}: Trainer({name}={value}) trains nothing: the run would succeed at once.",
                f"Give {name} a number above 0, or leave it out",
            )


def check_fabric(at: str, given: dict[str, Any], topology: Topology) -> Iterator[Finding]:
    """Find arguments of Lightning's Fabric that contradict the launch.

    Args:
        at: File and line of the call, for messages.
        given: The arguments by keyword; None for a value that is not known.
        topology: Nodes and workers of the run.
    """
    for check in (_of_geometry, _of_devices):
        for finding in check(at, given, topology):
            yield replace(finding, evidence=finding.evidence.replace("Trainer(", "Fabric("))


def _of_names(at: str, called: str, given: dict[str, Any]) -> Iterator[Finding]:
    known = _parameters(called.partition(".")[0]) if given else set()
    for name in given:
        if name in known:
            continue
        if name in SUCCESSORS:
            what = f"{at}: Trainer({name}=...): Lightning has removed this argument."
            yield refusal("trainer", name, what, f"Use {SUCCESSORS[name]}")
        elif known:
            what = f"{at}: Trainer({name}=...): it has no such argument."
            yield refusal("trainer", name, what, nearest_first(name, known))


def _parameters(package: str) -> set[str]:
    """Return the arguments of a package's Trainer; nothing if they are not known."""
    spec = importlib.util.find_spec(package) if package in _FILE else None
    if spec is None or not spec.submodule_search_locations:
        return set()
    try:
        source = Path(spec.submodule_search_locations[0], _FILE[package]).read_bytes()
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError):
        return set()
    for node in (each for kind in classes if kind.name == "Trainer" for each in kind.body):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if node.args.kwarg:
                return set()
            return {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
    return set()


def _of_geometry(at: str, given: dict[str, Any], topology: Topology) -> Iterator[Finding]:
    nodes, devices = given.get("num_nodes"), _count(given.get("devices"))
    if isinstance(nodes, int) and nodes != topology.num_nodes:
        flag = f"--nodes {nodes}" if nodes > 0 else "--nodes N"
        yield refusal(
            "trainer",
            "num_nodes",
            f"{at}: Trainer(num_nodes={nodes}) contradicts the launch on "
            f"{counted(topology.num_nodes, 'node')}.",
            f"Leave num_nodes out, which follows the launch; or: getiaction-launch {flag}",
        )
    if devices is not None and devices != topology.workers_per_node:
        flag = "--workers-per-node" if given.get("accelerator") == "cpu" else "--gpus-per-node"
        yield refusal(
            "trainer",
            "devices",
            f"{at}: Trainer(devices={given['devices']!r}) contradicts the launch with "
            f"{counted(topology.workers_per_node, 'worker')} on each node.",
            f"Write devices='auto', which follows the launch; or: getiaction-launch {flag} "
            f"{devices}",
        )


def _of_devices(at: str, given: dict[str, Any], topology: Topology) -> Iterator[Finding]:
    accelerator, precision = given.get("accelerator"), given.get("precision")
    on_gpus = bool(topology.gpus_per_node)
    if (accelerator in ("gpu", "cuda") and not on_gpus) or (accelerator == "cpu" and on_gpus):
        what = f"{topology.gpus_per_node} GPUs" if on_gpus else "no GPU"
        flag = "--gpus-per-node 0" if on_gpus else "--gpus-per-node 1"
        yield refusal(
            "trainer",
            "accelerator",
            f"{at}: Trainer(accelerator={accelerator!r}) contradicts the launch with {what} on "
            "each node.",
            f"Write accelerator='auto', which follows the launch; or: getiaction-launch {flag}",
        )
    if accelerator in _OTHER_DEVICES:
        what = f"{at}: Trainer(accelerator={accelerator!r}): workers are for GPUs or CPUs only."
        yield refusal("trainer", "accelerator", what, "Write accelerator='auto'")
    if precision in (16, "16", "16-mixed", "16-true") and not on_gpus:
        yield doubt(
            "trainer",
            "precision",
            f"{at}: Trainer(precision={precision!r}) is for GPUs, and this run trains on CPUs, "
            "where Lightning takes bf16-mixed for 16-mixed.",
            "Write precision='bf16-mixed' or '32-true', or use GPUs: --gpus-per-node 1",
        )
    if successor := _PRECISIONS.get(str(precision)):
        what = f"{at}: Trainer(precision={precision!r}) is none of Lightning's precisions."
        yield refusal("trainer", "precision", what, f"Write precision={successor!r}")


def _of_strategy(at: str, given: dict[str, Any]) -> Iterator[Finding]:
    strategy = given.get("strategy")
    if not isinstance(strategy, str):
        return
    if strategy.startswith(_OWN_PROCESSES) or strategy in FORMER_STRATEGIES:
        why = "was removed" if strategy in FORMER_STRATEGIES else "starts processes of its own"
        yield refusal(
            "trainer",
            "strategy",
            f"{at}: Trainer(strategy={strategy!r}) {why}, and the launcher starts one for each "
            "device.",
            "Use ddp: Trainer(strategy='ddp')",
        )
    elif not strategy.startswith(("ddp_", "fsdp_", "deepspeed_")) and strategy not in _STRATEGIES:
        near = difflib.get_close_matches(strategy, _STRATEGIES, 1, _NEAR)
        if near:
            what = f"{at}: Trainer(strategy={strategy!r}): Lightning has no such strategy."
            yield refusal("trainer", "strategy", what, f"Did you mean strategy={near[0]!r}?")


def _count(devices: object) -> int | None:
    """Count devices as Lightning does; None for all that there are, or if it is not known."""
    if isinstance(devices, bool) or devices is None or devices in ("auto", -1, "-1"):
        return None
    if isinstance(devices, str):
        parts = [part for part in devices.split(",") if part.strip()]
        if "," in devices:
            return len(parts)
        return int(devices) if devices.strip().isdecimal() else None
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) else None
