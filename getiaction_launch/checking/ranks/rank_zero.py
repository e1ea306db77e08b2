"""What rank 0 does alone: it waits in a collective for the others, or they wait for it."""

import ast
import re
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.constants import Constants
from getiaction_launch.checking.source.reach import surely_executed
from getiaction_launch.checking.source.source import Names, Source
from getiaction_launch.plan.plan import Topology

_ONLY = re.compile(r"(?<![\w.])(not )?[\w.]*\b(is_global_zero|rank_zero_only\.rank == 0)$")
_ZERO = re.compile(
    r"[\w.()\[\]'\"]*\b(global_rank|rank|get_rank\(\)|RANK'(\]|(, '?-?\d'?)?\))\)?) "
    r"(==|!=|>) '?0'?$"
)
_DECORATOR = "rank_zero_only"
_OF_TRAINER = {"save_checkpoint", "all_gather", "barrier", "broadcast", "reduce"}
_OF_TORCH = {"all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast_object_list"}
_HAVE_COLLECTIVES = re.compile(r"(trainer|strategy|fabric|engine|module|model|dist|distributed)$")
"""How names end that have collectives, besides ``self``."""
_LIBRARIES = ("lightning.", "pytorch_lightning.", "getiaction.", "torch.", "deepspeed.")
"""Where what has collectives comes from."""
_AGREE = re.compile(r"broadcast|reduce|gather")
"""What ranks agree by that one of them wants to stop."""
_FILES = {"os", "torch", "shutil", "json", "np", "numpy", "pickle", "functools"}
"""Modules with functions of the same names that are not collectives."""
_LEAVES = re.compile(r"(del os\.environ\[|environ\.pop\()'(WORLD_SIZE|SLURM_NTASKS)'")
"""How rank 0 leaves the job, for a process of its own."""
_RUNS = ("fit", "validate", "test", "predict")
"""Methods of a Trainer by which all its ranks begin together."""


def check_rank_0(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find each collective that only rank 0 comes to, outside of a script's classes.

    Args:
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    if topology.world_size > 1:
        # Classes are looked at once they are used.
        outside = [node for node in source.tree.body if not isinstance(node, ast.ClassDef)]
        yield from collectives_of_rank_0(ast.Module(outside, []), source.name)


def certain_on_rank_0(source: Source) -> set[ast.AST]:
    """Return the nodes of a script that rank 0 executes in every good run.

    Args:
        source: The script, as it was read.
    """
    conditions = [node for node in source.certain if isinstance(node, ast.If)]
    alone = [node for node in conditions if ranks_of(node.test) == "rank 0"]
    return source.certain.union(*map(surely_executed, alone))


def collectives_of_rank_0(
    tree: ast.Module, file: str, lines_before: int = 0, key: str = ""
) -> Iterator[Finding]:
    """Find each collective that only rank 0 comes to.

    Args:
        tree: The syntax tree of a script, or of a class.
        file: Name of the file that it stands in.
        lines_before: How many lines of the file come before it.
        key: The user's key of the class; the name of what is called by default.
    """
    others = [each for statement in _others(tree) for each in ast.walk(statement)]
    called = [each.func for each in others if isinstance(each, ast.Call)]
    met = {each.attr if isinstance(each, ast.Attribute) else ast.unparse(each) for each in called}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in met:
            calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
            met |= {each.attr for each in calls if isinstance(each, ast.Attribute)}
    if any("barrier" in name for name in met):
        return  # the other ranks may meet it there
    owners, agrees = _Owners(tree), bool(_AGREE.search(ast.unparse(tree)))
    for node in ast.walk(tree):
        for statement in _alone(node):
            for line in () if agrees else _stops(statement):
                yield refusal(
                    "ranks",
                    key or "should_stop",
                    f"{file}:{lines_before + line}: should_stop is set on rank 0 alone, which "
                    "leaves the epoch, and the other ranks wait for it forever.",
                    "Decide on all ranks alike: trainer.should_stop = "
                    "trainer.strategy.reduce_boolean_decision(is_done, all=False)",
                )
            for name, line in _collectives(statement, owners):
                if name.partition("(")[0] in met:
                    continue
                yield refusal(
                    "ranks",
                    key or name,
                    f"{file}:{lines_before + line}: {name} is called on rank 0 alone, where it "
                    "waits for the other ranks forever.",
                    f"Call {name} on all ranks, outside of the condition: only rank 0 writes files",
                )


def _alone(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield statements below a node that rank 0 alone executes."""
    if isinstance(node, ast.If) and "rank 0" in map(ranks_of, _all_of(node.test)):
        yield from node.body
    elif isinstance(node, ast.If) and ranks_of(node.test) == "others":
        yield from node.orelse
    elif isinstance(node, ast.FunctionDef):
        if any(ast.unparse(each).endswith(_DECORATOR) for each in node.decorator_list):
            yield from node.body
        for number, statement in enumerate(node.body):
            is_guard = isinstance(statement, ast.If) and ranks_of(statement.test) == "others"
            if is_guard and isinstance(statement.body[-1], (ast.Return, ast.Raise)):  # type: ignore[attr-defined]
                yield from node.body[number + 1 :]


def _all_of(test: ast.expr) -> list[ast.expr]:
    """Return the conditions that hold where a condition holds."""
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def _stops(statement: ast.stmt) -> Iterator[int]:
    """Yield the lines in which a statement ends training."""
    for node in ast.walk(statement):
        if not isinstance(node, ast.Assign) or ast.unparse(node.value) == "False":
            continue
        for target in node.targets:
            if not isinstance(target, ast.Attribute) or target.attr != "should_stop":
                continue
            if ast.unparse(target.value).endswith("trainer"):
                yield target.lineno


def _others(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield what the other ranks execute where rank 0 does something else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ranks_of(node.test):
            yield from node.orelse if ranks_of(node.test) == "rank 0" else node.body


def ranks_of(test: ast.expr) -> str:
    """Return which ranks a condition is for: ``rank 0``, ``others``, or empty if it is for none.

    Args:
        test: The condition of an ``if``.
    """
    text = ast.unparse(test)
    if found := _ONLY.fullmatch(text):
        return "others" if found[1] else "rank 0"
    if found := _ZERO.fullmatch(text):
        return "rank 0" if found[4] == "==" else "others"
    return ""


class _Owners:
    """What the names are set to on which a collective may be called.

    Args:
        tree: The syntax tree of a script, or of a class.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._names, self._constants = Names(tree), Constants(tree)
        self._is_alone = bool(_LEAVES.search(ast.unparse(tree)))

    def made(self, owner: ast.expr) -> str | None:
        """Return what makes an owner, empty if nothing of it waits; None if that is not known."""
        made = self._constants.expression_of(owner)
        if not isinstance(made, ast.Call):
            return None
        called, given = self._names.of(made.func), self._constants.arguments_of(made)
        known = [given.get(name, "auto") for name in ("devices", "strategy", "plugins")]
        is_open = any(word.arg is None for word in made.keywords) or None in known
        is_single = known[0] in (1, "1", [0]) or known[1] == "single_device" or self._is_alone
        if not called.startswith(_LIBRARIES) or is_open or is_single:
            return ""
        return called


def _collectives(statement: ast.stmt, owners: _Owners) -> Iterator[tuple[str, int]]:
    for node in ast.walk(statement):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if any(word.arg in ("group", "process_group") for word in node.keywords):
            continue  # which may be of rank 0 alone
        name, owner = node.func.attr, ast.unparse(node.func.value)
        # self.uploader has methods of its own, and so may anything with another name.
        is_known = owner == "self" or bool(_HAVE_COLLECTIVES.search(owner))
        is_of_trainer = name in _OF_TRAINER and owner.partition(".")[0] not in _FILES and is_known
        is_of_torch = name in _OF_TORCH or (
            name in _OF_TRAINER and owner.endswith(("dist", "distributed"))
        )
        is_synced = name == "log" and any(
            word.arg == "sync_dist" and ast.unparse(word.value) == "True" for word in node.keywords
        )
        made = owners.made(node.func.value)
        if made == "":
            continue
        is_run = name in _RUNS and (made or "").endswith(".Trainer")
        if is_of_trainer or is_of_torch or is_synced or is_run:
            yield (f"{name}(sync_dist=True)" if is_synced else name), node.lineno
