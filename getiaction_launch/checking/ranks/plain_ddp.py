"""What a program does with samples and GPUs that divides the work among ranks itself."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.ranks.global_rank import check_global_rank
from getiaction_launch.checking.ranks.parts import check_parts
from getiaction_launch.checking.ranks.saving import check_saving
from getiaction_launch.checking.ranks.waiting import check_waiting
from getiaction_launch.checking.ranks.wrapped import WRAPPERS, check_wrapped, device_ids_of
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_LOADERS = ("torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader")
_SAMPLERS = (
    "torch.utils.data.DistributedSampler",
    "torch.utils.data.distributed.DistributedSampler",
)
_STREAMS = ("torch.utils.data.IterableDataset", "torch.utils.data.dataset.IterableDataset")
_DRAWS = re.compile(r"rand|sample\(|shuffle|choice|seed|shard|worker_info|step\(", re.IGNORECASE)
"""What a stream does by which each rank may well get other samples than the next one."""
_FIXED = re.compile(
    r"rand\w*\((?:[^()]|\([^()]*\))*generator=torch\.Generator\(\)\.manual_seed\(\d+\)\)"
)
"""Draws that come out alike on each rank."""
_SEEDS = ("torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.random.seed")
_DIVIDERS = {"lightning", "pytorch_lightning", "getiaction", "accelerate", "transformers"}
"""Packages that divide samples and devices among ranks for a program."""
_RANK = re.compile(r"rank|RANK")
_OWN_NAME = re.compile(r"[\w.]*(rank|world|size)", re.IGNORECASE)
"""Names of a rank, and of what is asked for with it."""
_SHOWS = re.compile(r"(print|info|save|barrier|init|init_process_group|set_device)$")
"""How the names of calls end that stand alone and do nothing to the samples."""
_CHOOSES = re.compile(r"(device|to|cuda|DDP|DistributedDataParallel)$")
"""How the names of calls end that choose a device by the rank."""
_FIRST_GPU = re.compile(r"cuda(:0)?")
_DEVICE = "torch.device"
_GROUPS = (
    "torch.distributed.init_process_group",
    "torch.distributed.distributed_c10d.init_process_group",
)
_JOINS = re.compile(
    r"process_group|device_mesh|DeviceMesh|runpy|importlib|exec\(|eval\(|__import__"
)
"""What joins the ranks of a program, or may do so unseen."""


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
    wraps = any(source.names.of(node.func) in WRAPPERS for node in calls)
    if not _DIVIDERS.isdisjoint(source.names.modules):
        return
    yield from check_global_rank(calls, source, topology)
    if not wraps:
        yield from _of_shared_gpu(calls, source, topology)
        return
    yield from _of_no_group(calls, source)
    yield from check_wrapped(source)
    if not topology.gpus_per_node and not re.search(r"is_available|device_count", source.text):
        for node in calls:
            yield from _of_no_gpu(node, source)
    if "CUDA_VISIBLE_DEVICES" not in source.text:
        for node in calls:
            yield from _of_first_gpu(node, source, topology)
    if topology.world_size > 1:
        yield from _of_samples(calls, source, topology)
        yield from check_saving(calls, source, topology)
        yield from check_parts(calls, source, topology)
        yield from check_waiting(source, topology)


def _of_two_orders(node: ast.Call, source: Source) -> Iterator[Finding]:
    """Find a loader that is given a sampler and is to shuffle, which torch refuses."""
    shuffles = source.constants.arguments_of(node).get("shuffle") is True
    for word in node.keywords:
        sampler = source.constants.expression_of(word.value)
        if word.arg not in ("sampler", "batch_sampler") or not isinstance(sampler, ast.Call):
            continue
        # A function of the user's own may well return None.
        if source.names.of(sampler.func).startswith("torch.") and shuffles:
            what = f"{source.at(node)}: DataLoader(shuffle=True, {word.arg}=...): torch takes one."
            fix = "Leave shuffle out: DistributedSampler(dataset, shuffle=True) shuffles"
            yield source.judged(refusal("samples", "shuffle", what, fix), node)


def _of_samples(calls: list[ast.Call], source: Source, topology: Topology) -> Iterator[Finding]:
    """Find shuffled loaders that do not divide the samples, and samplers that do not shuffle."""
    names = [source.names.of(node.func) for node in calls]
    samplers = [node for node, name in zip(calls, names, strict=True) if name in _SAMPLERS]
    loops = any(isinstance(node, (ast.For, ast.While)) for node in ast.walk(source.tree))
    sets_epoch = "set_epoch" in source.text
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
    yield from _of_streams(source, topology)
    for node, name in zip(calls, names, strict=True):
        given = source.constants.arguments_of(node)
        if name not in _LOADERS or given.get("shuffle") is not True:
            continue
        seeds = [call for call, name in zip(calls, names, strict=True) if name in _SEEDS]
        is_alike = bool(seeds) and all(
            seed.args and isinstance(source.constants.value_of(seed.args[0]), int) for seed in seeds
        )
        what = f"{source.at(node)}: the DataLoader has no DistributedSampler, so each of the "
        what += f"{topology.world_size} ranks reads all samples"
        fix = "DataLoader(dataset, sampler=DistributedSampler(dataset)), without shuffle"
        if is_alike and "generator" not in given and _is_of_torch(node, source):
            what = f"{what}, in the same order: they all compute the same gradient."
            yield source.judged(refusal("samples", "sampler", what, fix), node)
        else:
            yield doubt("samples", "sampler", f"{what} in each epoch.", fix)


def _of_streams(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find a dataset that is a stream, and the same one on each rank."""
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef) or _DRAWS.search(_FIXED.sub("", ast.unparse(node))):
            continue
        if any(source.names.of(base) in _STREAMS for base in node.bases):
            yield doubt(
                "samples",
                node.name,
                f"{source.name}:{node.lineno}: each of the {topology.world_size} ranks reads the "
                f"whole stream of {node.name}, as no sampler divides an IterableDataset.",
                "In __iter__: itertools.islice(samples, dist.get_rank(), None, "
                "dist.get_world_size())",
            )


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
    """Whether a rank is only asked for, shown, kept under its own name or made a device."""
    while (above := parents.get(node)) is not None:
        if isinstance(above, ast.Compare):
            others = [each for each in (above.left, *above.comparators) if each is not node]
            if isinstance(node, ast.BinOp) or not all(isinstance(e, ast.Constant) for e in others):
                return False  # such as: number % world_size == rank
        elif isinstance(above, ast.Call):
            called = ast.unparse(above.func)
            if _CHOOSES.search(called) and node is not above.func:
                return True
            if isinstance(parents.get(above), ast.Expr):
                return bool(_SHOWS.search(called))
        elif isinstance(above, ast.stmt):
            return _keeps_samples(above, node)
        node = above
    return True


def _keeps_samples(statement: ast.stmt, part: ast.AST) -> bool:
    """Whether a statement with a rank in that part of it leaves the samples as they are."""
    if isinstance(statement, ast.If):
        is_test = part is statement.test
        return is_test and not any(isinstance(each, ast.Assign) for each in ast.walk(statement))
    if not isinstance(statement, ast.Assign):
        return False
    targets = [each for target in statement.targets for each in getattr(target, "elts", [target])]
    return all(_OWN_NAME.fullmatch(ast.unparse(target)) for target in targets)


def _is_of_torch(loader: ast.Call, source: Source) -> bool:
    """Whether the script itself makes a dataset, of literals and of what torch makes of them."""
    named = [word.value for word in loader.keywords if word.arg == "dataset"]
    made = [source.constants.expression_of(each) for each in (*loader.args[:1], *named)]
    for each in made:
        inner: list[ast.expr] = []
        if isinstance(each, ast.Call):
            called = source.names.of(each.func)
            if not called.startswith("torch.") or called == "torch.load" or "(" in called:
                return False
            inner = [*each.args, *(word.value for word in each.keywords)]
        elif isinstance(each, (ast.List, ast.Tuple)) and each.elts:
            inner = each.elts
        elif not isinstance(each, ast.Constant):
            return False
        found = map(source.constants.expression_of, inner)
        made += [new for new in found if new not in made]  # a name may be made of itself
    return source.is_alone


def _of_no_group(calls: list[ast.Call], source: Source) -> Iterator[Finding]:
    """Find a model that is wrapped though nothing in the script joins the ranks."""
    if not source.is_alone or _JOINS.search(source.text):
        return
    for node in calls:
        if source.names.of(node.func) in WRAPPERS and node in source.certain:
            what = f"{source.at(node)}: DistributedDataParallel needs a process group, and "
            what += "init_process_group is never called."
            fix = "Before it: torch.distributed.init_process_group('gloo'), or 'nccl' on GPUs"
            yield refusal("processes", "init_process_group", what, fix)
            return


def _of_no_gpu(node: ast.Call, source: Source) -> Iterator[Finding]:
    """Find a GPU chosen by the rank, in a run on CPUs."""
    is_given = bool(device_ids_of(node, source))
    is_set = source.names.of(node.func) == "torch.cuda.set_device"
    if node not in source.certain or not (is_given or is_set):
        return
    what = f"{source.at(node)}: {ast.unparse(node)} needs a GPU, and this run trains on CPUs."
    fix = "Only on GPUs: if torch.cuda.is_available(): ...; or ask for them: --gpus-per-node 1"
    if is_given:
        fix = "Leave device_ids out: DDP(model); or ask for GPUs: --gpus-per-node 1"
    yield refusal("devices", "cuda", what, fix)


def _of_shared_gpu(calls: list[ast.Call], source: Source, topology: Topology) -> Iterator[Finding]:
    """Find a GPU by its number in a program whose ranks share no wrapped model."""
    joins = any(source.names.of(node.func) in _GROUPS for node in calls)
    for node in calls if "CUDA_VISIBLE_DEVICES" not in source.text else ():
        for finding in _of_first_gpu(node, source, topology):
            # Ranks that know nothing of each other may well fit on one GPU.
            yield finding if joins else replace(finding, verdict="doubtful")


def _of_first_gpu(node: ast.Call, source: Source, topology: Topology) -> Iterator[Finding]:
    """Find a GPU by its number, which the ranks of a node would share or which is not there."""
    if node not in source.certain:
        return
    called, shown = called_name(node), ast.unparse(node)
    whole, given = source.names.of(node.func), source.constants.arguments_of(node)
    chosen = source.constants.expression_of(node.args[0]) if node.args else None
    if called == "to" and isinstance(chosen, ast.Call) and chosen.args:
        is_device = source.names.of(chosen.func) == _DEVICE
        chosen = chosen.args[0] if is_device else None
    first = source.constants.value_of(chosen) if chosen else None
    sets = whole == "torch.cuda.set_device"
    named = first if isinstance(first, str) and (sets or called in ("device", "to")) else ""
    is_number = (sets or called == "cuda") and first == 0
    is_first = named == "cuda:0" or is_number or given.get("device_ids") == [0]
    is_gpu = is_first or bool(_FIRST_GPU.fullmatch(named)) or (called == "cuda" and not node.args)
    judged = doubt if called == "device" else refusal  # what is done with it is another matter
    fix = "Choose it by the rank: torch.device('cuda', int(os.environ['LOCAL_RANK']))"
    if is_gpu and not topology.gpus_per_node:
        what = f"{source.at(node)}: {shown} needs a GPU, and this run trains on CPUs."
        fix = "Ask for GPUs: --gpus-per-node 1; or use the CPU: torch.device('cpu')"
        yield judged("devices", "cuda", what, fix)
    elif is_first and topology.gpus_per_node > 1:
        what = f"{source.at(node)}: {shown} is the same GPU for the {topology.gpus_per_node} ranks "
        yield judged("devices", "cuda", f"{what}of a node.", fix)
