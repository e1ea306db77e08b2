"""Numbers that a class counts while it trains, and that no checkpoint has.

After a restart they begin anew, and with them what depends on them: a weight of the loss that is
warmed up, a curriculum, the best score so far.
"""

import ast
import re
from collections.abc import Iterable, Iterator

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import (
    own_attribute,
    own_attributes,
    sources_of,
    tree_of,
)
from getiaction_launch.checking.finding import Finding, doubt

_KEEPERS = {"state_dict", "on_save_checkpoint", "get_extra_state"}
"""Methods by which a class says itself what a checkpoint has of it."""
_BEFORE = {"__init__", "setup", "prepare_data", "configure_model", "on_fit_start", "on_train_start"}
"""Methods that also run after a restart, before anything is trained."""
_BESIDE = re.compile(r"sanity|test|predict|fit_end|train_end$")
_SHOWS = re.compile(
    r"print|log(_\w+)?$|write|info|debug|warn|format|add_scalar|update$|set_(post|desc)"
)
"""How functions are called that only show a number, or hand it to a progress bar."""
_GATHERS = {"append", "appendleft", "extend", "clear"}
"""Methods that only put something into a list, or take it out."""


def check_counters(built: Built) -> Iterator[Finding]:
    """Find numbers that hooks count, that training depends on, and that no checkpoint has.

    Args:
        built: What the spec names.
    """
    for owner in (*built.trainer.callbacks, built.model, built.data):
        hooks = hooks_of(owner)
        counted = {name for hook in hooks for name in _counted(hook)}
        reset = {name for hook in hooks for name in _reset(hook)}
        for name in sorted(counted & depended_on(hooks) - reset):
            if type(vars(owner).get(name)) in (int, float):
                yield doubt(
                    "checkpoints",
                    name,
                    f"{type(owner).__name__} counts self.{name} in training, and no checkpoint has "
                    f"it: after a restart it is {vars(owner)[name]!r} again.",
                    _fix(owner, built, name),
                )


def depended_on(hooks: Iterable[ast.FunctionDef]) -> set[str]:
    """Return the attributes on which training depends.

    Args:
        hooks: What :func:`hooks_of` has returned.
    """
    return {name for hook in hooks for name in _Uses(hook).found}


def hooks_of(owner: object) -> list[ast.FunctionDef]:
    """Return the methods of the user's own that run while something is trained.

    Args:
        owner: A model, a datamodule or a callback; if it says itself what a checkpoint has of it,
            nothing is returned.
    """
    own = list(sources_of(owner, but=("getiaction",)))
    if any(_KEEPERS & vars(kind).keys() for kind, _ in own):
        return []
    trees = [tree for _, source in own if (tree := tree_of(source))]
    nodes = (node for tree in trees for node in ast.walk(tree))
    methods = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return [each for each in methods if not (each.name in _BEFORE or _BESIDE.search(each.name))]


def _fix(owner: object, built: Built, name: str) -> str:
    also = "or use trainer.global_step or trainer.current_epoch, which are restored"
    if owner is built.model:
        return f'self.register_buffer("{name}", torch.tensor(0.0)), {also}'
    return f'def state_dict(self): return {{"{name}": self.{name}}}, and load_state_dict, {also}'


def _set(node: ast.AST) -> set[str]:
    """Return the attributes of ``self`` that an assignment sets."""
    return set(map(own_attribute, node.targets)) - {""} if isinstance(node, ast.Assign) else set()


def _counted(method: ast.FunctionDef) -> Iterator[str]:
    """Yield the attributes that a method sets by what they were, or only if they were something."""
    for node in ast.walk(method):
        if isinstance(node, ast.AugAssign):
            yield own_attribute(node.target)
        elif isinstance(node, ast.Assign):
            yield from _set(node).intersection(own_attributes(node.value))
        elif isinstance(node, ast.If):
            inside = (each for part in node.body for each in ast.walk(part))
            stored = {name for each in inside for name in _set(each)}
            yield from stored.intersection(own_attributes(node.test))


def _reset(method: ast.FunctionDef) -> Iterator[str]:
    """Yield the attributes that a method sets to a constant, as what counts one epoch only."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield from _set(node)


class _Uses(ast.NodeVisitor):
    """The attributes of ``self`` that a method does something with but count and show them.

    Args:
        method: The method to read.
    """

    def __init__(self, method: ast.FunctionDef) -> None:
        self.found: set[str] = set()
        self._meant: dict[str, set[str]] = {}
        self.generic_visit(method)

    def visit_Assign(self, node: ast.Assign) -> None:
        if own := _set(node):
            self.found |= {*own_attributes(node.value)} - own
        elif all(isinstance(target, ast.Name) for target in node.targets):
            before, self.found = self.found, set()
            self.visit(node.value)
            for target in node.targets:
                self._meant.setdefault(target.id, set()).update(self.found)  # type: ignore[attr-defined]
            self.found = before
        else:
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        name = own_attribute(node.target)
        self.found |= {*own_attributes(node.value)} - {name}
        if not name:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.found |= {own_attribute(node)}
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.found |= self._meant.get(node.id, set())

    def visit_Call(self, node: ast.Call) -> None:
        owner, _, called = ast.unparse(node.func).rpartition(".")
        if called in _GATHERS and owner.startswith("self."):
            for each in node.args:
                self.visit(each)
        elif not _SHOWS.match(called.lstrip("_")):
            self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not isinstance(node.op, ast.Mod):  # every so-manieth time, or a text
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave out what is only shown."""
