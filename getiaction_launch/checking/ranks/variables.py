"""The variables by which ranks find each other: a script overwrites them, or reads SLURM's."""

import ast
import os
import re
from collections.abc import Iterator, Mapping

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
_OF_SLURM = {"SLURM_PROCID": "RANK", "SLURM_LOCALID": "LOCAL_RANK", "SLURM_NTASKS": "WORLD_SIZE"}

_ASKING = {"RANK": "get_rank", "WORLD_SIZE": "get_world_size", "LOCAL_RANK": "get_node_local_rank"}
"""What torch.distributed says of a variable."""


def check_variables(source: Source, plan: Plan) -> Iterator[Finding]:
    """Find variables of the launch that a script overwrites.

    Args:
        source: The script, as it was read.
        plan: The plan of the run.
    """
    asked = {
        inner: test
        for test in ast.walk(source.tree)
        if isinstance(test, ast.If)
        for inner in ast.walk(test)
    }
    for node in ast.walk(source.tree):
        for variable, value in _set_by(node, source):
            finding = _of_value(variable, value, source, plan)
            # Not below `if "RANK" not in os.environ:`, which sets what is not set.
            is_asked = node in asked and repr(variable) in ast.unparse(asked[node].test)
            if finding and not is_asked:
                yield source.judged(finding, node)


def _set_by(node: ast.AST, source: Source) -> Iterator[tuple[str, ast.expr]]:
    """Yield the environment variables that a statement or call sets, with their values."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript) and source.names.of(target.value) == "os.environ":
                yield str(source.constants.value_of(target.slice)), node.value
    elif isinstance(node, ast.Call) and source.called(node) == "os.environ.update":
        yield from ((word.arg, word.value) for word in node.keywords if word.arg)
        for given in map(source.constants.expression_of, node.args):
            if isinstance(given, ast.Dict):
                for key, value in zip(given.keys, given.values, strict=True):
                    yield str(source.constants.value_of(key) if key else None), value


def check_slurm(source: Source, plan: Plan) -> Iterator[Finding]:
    """Find variables of SLURM in a script that is not run there, and does not set them."""
    sets = re.search(r"environ(\[[^]]*\] = |\.update|\.setdefault| \|=|,)", source.text)
    if sets or not source.is_alone:
        return
    unset = _OF_SLURM.keys() - os.environ.keys() - plan.env_vars.keys()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Subscript) and source.names.of(node.value) == "os.environ":
            name = str(source.constants.value_of(node.slice))
            if name in unset:
                what = f"{source.at(node)}: {name} is not set: the run is not a job of SLURM."
                fix = f"Use what is set on each cluster: os.environ['{_OF_SLURM[name]}']"
                yield source.judged(refusal("processes", name, what, fix), node)


def _of_value(variable: str, value: ast.expr, source: Source, plan: Plan) -> Finding | None:
    topology = plan.topology
    is_rank = variable in RANKS and topology.world_size > 1
    is_address = variable == "MASTER_ADDR" and topology.num_nodes > 1
    if not (is_rank or is_address):
        return None
    origins = source.origins.of(value)
    if variable in origins or _ASKING.get(variable) in origins:
        return None  # it may keep what is set, as by os.environ.get
    if is_rank:
        # A rank on the node can be counted from the one among all; and one task is one node.
        is_counted = not origins.isdisjoint(RANKS) and any(
            isinstance(part, ast.BinOp) for part in ast.walk(source.constants.expression_of(value))
        )
        is_same = topology.workers_per_node == 1 and bool(origins & _OF_SLURM.keys())
    else:
        is_counted, is_same = False, any(re.search("SLURM|scontrol", each) for each in origins)
    if is_counted or is_same:
        return None
    where = f"{source.at(value)}: os.environ[{variable!r}] is overwritten"
    return of_variable(variable, where, topology.world_size)


def ranks_of_environment() -> dict[str, str | None]:
    """Return the variables by which ranks find each other, as they are in this process."""
    return {name: os.environ.get(name) for name in (*RANKS, *_ADDRESS)}


def changed_variables(before: Mapping[str, str | None], world_size: int) -> Iterator[Finding]:
    """Find variables of the launch that a program has overwritten in this process.

    Args:
        before: What :func:`ranks_of_environment` has returned before it ran.
        world_size: Number of ranks of the run.
    """
    for name, value in before.items():
        now = os.environ.get(name)
        if now != value and world_size > 1 and (name in RANKS or now is not None):
            yield of_variable(name, f"the script sets {name} to {now!r}", world_size)


def of_variable(variable: str, where: str, world_size: int) -> Finding:
    """Return the refusal of a program that sets what the launcher has set.

    Args:
        variable: Name of the environment variable.
        where: Where it is set, as the beginning of a sentence.
        world_size: Number of ranks of the run.
    """
    return refusal(
        "processes",
        variable,
        f"{where}, by which the {world_size} workers find each other.",
        f"Remove the line, or keep what is set: os.environ.setdefault({variable!r}, ...)",
    )
