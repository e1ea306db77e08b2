"""Directories that a script makes twice, or writes to although nobody has made them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan, Topology

_MAKE = ("os.makedirs", "os.mkdir")
_WRITE = {"torch.save": 1, "numpy.save": 0, "numpy.savez": 0, "matplotlib.pyplot.savefig": 0}
"""Functions that write a file, in a directory that they do not make, and where its path stands."""
_MAKES = re.compile(r"mkdir|makedirs|chdir|copytree|extractall|unpack|subprocess|system|Writer")
"""Functions after which a directory may be there."""
_MOVES = re.compile(r"chdir|hydra")
"""What changes the working directory."""
_BEFORE_EXIST_OK = 2
"""How many arguments stand before exist_ok."""


def check_folders(node: ast.Call, source: Source, plan: Plan) -> Iterator[Finding]:
    """Find a directory that cannot be made, or is not there, when a call needs it.

    Args:
        node: A call in the script.
        source: The script, as it was read.
        plan: The plan of the run.
    """
    yield from _of_second_making(node, source, plan.topology)
    yield from _of_writing(node, source, Path(plan.working_directory))


def _of_second_making(node: ast.Call, source: Source, topology: Topology) -> Iterator[Finding]:
    """Find a directory that a second worker, or a second attempt, cannot make once more."""
    called, named = source.names.of(node.func), {word.arg for word in node.keywords}
    made: ast.expr | None = None
    if node.args and called in _MAKE:
        made = node.args[0]
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "mkdir":
        owner = source.constants.expression_of(node.func.value)
        if isinstance(owner, ast.Call) and source.names.of(owner.func) == "pathlib.Path":
            made = owner.args[0] if len(owner.args) == 1 else None
    path = source.constants.value_of(made) if made else None
    may_be_there = len(node.args) > _BEFORE_EXIST_OK or not named.isdisjoint({"exist_ok", None})
    if not isinstance(path, str) or may_be_there or node not in source.certain:
        return
    world_size = topology.world_size
    if "rmtree" in source.text:
        return
    # Each worker may have its own: on its node's disk, or in its own working directory.
    is_absolute = Path(path).is_absolute()
    is_own = topology.workers_per_node == 1 if is_absolute else bool(_MOVES.search(source.text))
    who = f"the first of {world_size} workers" if world_size > 1 else "the first attempt"
    what = f"{source.at(node)}: {path!r} exists once {who} has made it, and the next one fails."
    judged = refusal if world_size > 1 and not is_own else doubt
    yield judged("script", "exist_ok", what, f"os.makedirs({path!r}, exist_ok=True)")


def _of_writing(node: ast.Call, source: Source, home: Path) -> Iterator[Finding]:
    """Find a file that is to be written where there is no directory, often after hours."""
    position = _WRITE.get(source.names.of(node.func))
    if position is None or len(node.args) <= position:
        return
    path = source.constants.value_of(node.args[position])
    if not isinstance(path, str) or "://" in path:
        return
    folder = Path(path).parent
    if folder.is_absolute() or home.joinpath(folder).is_dir():
        return
    if _may_be_made(source, folder):
        return
    what = f"{source.at(node)}: there is no directory {str(folder)!r} to write {path!r} to."
    fix = f"Make it first: os.makedirs({str(folder)!r}, exist_ok=True)"
    judged = refusal if source.is_alone else doubt  # others may make it, as Lightning its logs
    yield source.judged(judged("script", str(folder), what, fix), node)


def _may_be_made(source: Source, folder: Path) -> bool:
    """Whether a script makes a directory, or hands its name to something that may make it."""
    texts = [node.value for node in ast.walk(source.tree) if isinstance(node, ast.Constant)]
    named = [text for text in texts if isinstance(text, str) and folder.parts[0] in text]
    return len(named) > 1 or bool(_MAKES.search(source.text))
