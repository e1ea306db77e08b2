"""The variables by which ranks find each other: a script overwrites them, or reads SLURM's."""

import ast
import os
import re
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan

RANKS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE"}
_OF_SLURM = {"SLURM_PROCID": "RANK", "SLURM_LOCALID": "LOCAL_RANK", "SLURM_NTASKS": "WORLD_SIZE"}


def check_variables(source: Source, plan: Plan) -> Iterator[Finding]:
    """Find variables of the launch that a script overwrites.

    Args:
        source: The script, as it was read.
        plan: The plan of the run.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign):
            for finding in _of_variable(node, source, plan):
                yield source.judged(finding, node)


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


def _of_variable(node: ast.Assign, source: Source, plan: Plan) -> Iterator[Finding]:
    for target in node.targets:
        if not (isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant)):
            continue
        variable = target.slice.value
        is_rank = variable in RANKS and plan.topology.world_size > 1
        is_address = variable == "MASTER_ADDR" and plan.topology.num_nodes > 1
        if variable in {
            each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)
        }:
            continue  # it may keep what is set, as by os.environ.get
        if source.names.of(target.value) == "os.environ" and (is_rank or is_address):
            where = f"{source.at(node)}: os.environ[{variable!r}] is overwritten"
            yield of_variable(str(variable), where, plan.topology.world_size)


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
