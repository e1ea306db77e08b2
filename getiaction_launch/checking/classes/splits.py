"""Splits into training and validation that each rank, and each attempt, would draw anew."""

import ast
import inspect
import operator
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_classes, tree_of
from getiaction_launch.checking.finding import Finding, doubt, refusal

_GLOBAL = {
    *("np.random.permutation", "np.random.shuffle", "np.random.choice"),
    *("numpy.random.permutation", "numpy.random.shuffle", "numpy.random.choice"),
    *("random.shuffle", "random.sample"),
}
"""Functions that draw from a generator of the process."""
_OF_TORCH = {"random_split": 3, "randperm": 2}
"""Functions of torch that do so unless they are given a generator, and their arguments with it."""
_FRESH = {"np.random.default_rng", "numpy.random.default_rng", "default_rng"}
"""Functions that make a generator, from a seed if they are given one."""
_NEVER_SEED = ("super().__init__", "self.save_hyperparameters")
_AGREES = re.compile(r"seed|broadcast")
"""How source says that the ranks draw the same."""


def check_splits(built: Built) -> Iterator[Finding]:
    """Find data that is divided at random where nothing is seeded.

    Sampling by rank then mixes the parts: what one rank holds out, another one trains on.

    Args:
        built: What the spec names.
    """
    if not built.script and built.spec.get("seed_everything") is not False:
        return  # Lightning's command line seeds all ranks alike
    if built.is_seeded:
        return
    if built.source and _agrees(built.source.text):
        return
    world = built.plan.topology.world_size
    for kind, key, source in own_classes(built):
        tree = tree_of(source)
        module = sys.modules.get(kind.__module__)
        if tree is None or "val_dataloader" not in vars(kind) or _seeds(module):
            continue
        file, before = Path(inspect.getfile(kind)).name, inspect.getsourcelines(kind)[1] - 1
        for name, line, is_sure in _draws(tree, module):
            who = f"each of {world} ranks" if world > 1 else "each attempt of the run"
            what = f"{file}:{before + line}: {name} has no seed, so {who} draws other samples for "
            judged = refusal if world > 1 and built.script and is_sure else doubt
            yield judged(
                "data",
                key,
                f"{what}validation, and trains on those of the others.",
                _fix_of(name),
            )


def _fix_of(name: str) -> str:
    if name.startswith("random."):
        return f"Draw with a seed: random.Random(0).{name.removeprefix('random.')}(...)"
    return (
        "Give it a generator with a seed: torch.Generator().manual_seed(0), or "
        "numpy.random.default_rng(0)"
    )


def _seeds(module: object) -> bool:
    try:
        return _agrees(inspect.getsource(module))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return True


def _agrees(text: str) -> bool:
    """Whether source says that the ranks draw the same, with more than a name that it imports."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return True
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            node.names = [each for each in node.names if _is_read(each, read)] or [ast.alias("_")]
    return bool(_AGREES.search(ast.unparse(tree)))


def _is_read(alias: ast.alias, read: set[str]) -> bool:
    return alias.name == "*" or (alias.asname or alias.name) in read


def _draws(tree: ast.Module, module: object) -> Iterator[tuple[str, int, bool]]:
    """Yield what draws at random where a datamodule is set up, the lines, and if it splits data."""
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for method in (node for node in methods if node.name in ("setup", "__init__")):
        # What is called for nothing that it returns may seed.
        may_seed = any(
            isinstance(each, ast.Expr) and isinstance(each.value, ast.Call)
            for each in ast.walk(method)
            if not ast.unparse(each).startswith(_NEVER_SEED)
        )
        for node in (each for each in ast.walk(method) if isinstance(each, ast.Call)):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            named = {word.arg for word in node.keywords}
            is_open = last in _OF_TORCH and len(node.args) < _OF_TORCH[last]
            is_fresh = name in _FRESH and not node.args and not named
            if name in _GLOBAL or (is_open and "generator" not in named) or is_fresh:
                yield name, node.lineno, not may_seed and _is_random_split(name, module)


def _is_random_split(name: str, module: object) -> bool:
    from torch.utils.data import random_split

    try:
        return operator.attrgetter(name)(module) is random_split
    except AttributeError:  # it is imported elsewhere, or another one's
        return False
