"""What a program does with samples and GPUs that divides the work among ranks itself."""

import ast
import re
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.script.source import Source
from getiaction_launch.plan.plan import Topology

_DDP = "torch.nn.parallel.DistributedDataParallel"
_WRAPPERS = (_DDP, "torch.nn.parallel.distributed.DistributedDataParallel")
_LOADERS = ("torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader")
_SAMPLERS = (
    "torch.utils.data.DistributedSampler",
    "torch.utils.data.distributed.DistributedSampler",
)
_SEEDS = ("torch.manual_seed", "torch.random.manual_seed")
_DIVIDERS = {"lightning", "pytorch_lightning", "getiaction", "accelerate", "transformers"}
"""Packages that divide samples and devices among ranks for a program."""
_RANK = re.compile(r"rank|RANK")
_FIRST_GPU = re.compile(r"cuda(:0)?")
_LEADS_TO_GPU = ("device", "to", "set_device")
"""Calls whose first argument chooses a device."""


def check_plain_ddp(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find ranks that read the same samples or share a GPU, and GPUs that the run does not have.

    Args:
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    for node in calls:
        if source.names.of(node.func) in _LOADERS:
            yield from _of_two_orders(node, source)
    wraps = any(source.names.of(node.func) in _WRAPPERS for node in calls)
    if not wraps or not _DIVIDERS.isdisjoint(source.names.modules):
        return
    for node in calls:
        yield from _of_first_gpu(node, source, topology)
    if topology.world_size > 1:
        yield from _of_samples(calls, source, topology)


def _of_two_orders(node: ast.Call, source: Source) -> Iterator[Finding]:
    """Find a loader that is given a sampler and is to shuffle, which torch refuses."""
    given = source.constants.arguments_of(node)
    named = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
    sampler = next((name for name in ("sampler", "batch_sampler") if name in named), "")
    if sampler and named[sampler] != "None" and given.get("shuffle") is True:
        maybe = isinstance(next(w.value for w in node.keywords if w.arg == sampler), ast.IfExp)
        if not maybe:
            what = f"{source.at(node)}: DataLoader(shuffle=True, {sampler}=...): torch takes one."
            fix = "Leave shuffle out: DistributedSampler(dataset, shuffle=True) shuffles"
            yield source.judged(refusal("samples", "shuffle", what, fix), node)


def _of_samples(calls: list[ast.Call], source: Source, topology: Topology) -> Iterator[Finding]:
    """Find shuffled loaders that do not divide the samples, and samplers that do not shuffle."""
    names = [source.names.of(node.func) for node in calls]
    samplers = [node for node, name in zip(calls, names, strict=True) if name in _SAMPLERS]
    loops = any(isinstance(node, (ast.For, ast.While)) for node in ast.walk(source.tree))
    sets_epoch = "set_epoch" in ast.unparse(source.tree)
    for node in samplers:
        shuffles = source.constants.arguments_of(node).get("shuffle", True) is not False
        if shuffles and loops and not sets_epoch:
            yield doubt(
                "samples",
                "set_epoch",
                f"{source.at(node)}: set_epoch is never called, so DistributedSampler shuffles "
                "each epoch alike.",
                "Call it at the start of each epoch: sampler.set_epoch(epoch)",
            )
            break
    if samplers or _divides(source.tree):
        return
    for node, name in zip(calls, names, strict=True):
        given = source.constants.arguments_of(node)
        if name not in _LOADERS or given.get("shuffle") is not True:
            continue
        seeds = [call.args for call, name in zip(calls, names, strict=True) if name in _SEEDS]
        is_seeded = any(
            isinstance(source.constants.value_of(seed[0]), int) for seed in seeds if seed
        )
        what = f"{source.at(node)}: the DataLoader has no DistributedSampler, so each of the "
        what += f"{topology.world_size} ranks reads all samples"
        fix = "DataLoader(dataset, sampler=DistributedSampler(dataset)), without shuffle"
        if is_seeded:
            what = f"{what}, in the same order: they all compute the same gradient."
            yield source.judged(refusal("samples", "sampler", what, fix), node)
        else:
            yield doubt("samples", "sampler", f"{what} in each epoch.", fix)


def _divides(tree: ast.Module) -> bool:
    """Whether a program may divide its samples by the rank, besides printing and saving by it."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        is_named = isinstance(node, (ast.Name, ast.Attribute, ast.Constant))
        if not is_named or not _RANK.search(ast.unparse(node)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            continue
        if not _is_harmless(node, parents):
            return True
    return False


def _is_harmless(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a rank is only compared, shown, kept under a name of its own or made a device."""
    while (above := parents.get(node)) is not None:
        if isinstance(above, (ast.Compare, ast.JoinedStr, ast.ImportFrom)):
            return True
        if isinstance(above, ast.If) and node is above.test:
            return True
        if isinstance(above, ast.Assign):
            return all(_RANK.search(ast.unparse(target)) for target in above.targets)
        if isinstance(above, ast.Call) and re.search(
            r"(device|to|cuda|DDP|DistributedDataParallel|print|get_rank|info)$",
            ast.unparse(above.func),
        ):
            return True if node is not above.func else _is_harmless(above, parents)
        if isinstance(above, ast.stmt) and not isinstance(above, ast.Expr):
            return False
        node = above
    return True


def _of_first_gpu(node: ast.Call, source: Source, topology: Topology) -> Iterator[Finding]:
    """Find a GPU by its number, which the ranks of a node would share or which is not there."""
    if node not in source.certain:
        return
    called, shown = ast.unparse(node.func).rpartition(".")[2], ast.unparse(node)
    first = source.constants.value_of(node.args[0]) if node.args else None
    named = first if isinstance(first, str) and called in _LEADS_TO_GPU else ""
    is_number = called in ("set_device", "cuda") and first == 0
    ids = source.constants.arguments_of(node).get("device_ids")
    is_first = named == "cuda:0" or is_number or ids == [0]
    is_gpu = is_first or bool(_FIRST_GPU.fullmatch(named)) or (called == "cuda" and not node.args)
    fix = "Choose it by the rank: torch.device('cuda', int(os.environ['LOCAL_RANK']))"
    if is_gpu and not topology.gpus_per_node:
        what = f"{source.at(node)}: {shown} needs a GPU, and this run trains on CPUs."
        fix = "Ask for GPUs: --gpus-per-node 1; or use the CPU: torch.device('cpu')"
        yield refusal("devices", "cuda", what, fix)
    elif is_first and topology.gpus_per_node > 1:
        what = f"{source.at(node)}: {shown} is the same GPU for the {topology.gpus_per_node} ranks "
        yield refusal("devices", "cuda", f"{what}of a node.", fix)
