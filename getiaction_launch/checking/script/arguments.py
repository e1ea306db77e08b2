"""Options of a script by argparse: those that it requires, and those that it does not have."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.constants import Constants
from getiaction_launch.checking.script.reach import always_executed
from getiaction_launch.errors import nearest_first

_ADDING = {"add_argument"}
_OPEN = {"parse_known_args", "add_subparsers", "add_parser", "set_defaults", "add_arguments"}
"""Calls after which a parser takes other options than those that are read here."""
_PARSERS = {"ArgumentParser", "add_argument_group", "add_mutually_exclusive_group"}
_OF_OTHERS = {"parents", "prefix_chars", "fromfile_prefix_chars"}
_SHORTEST = 3
"""Letters of the shortest abbreviation of an option, with its dashes."""


def check_arguments(tree: ast.Module, script: Path, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that argparse will miss, or not know.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script.
        words: The arguments of the script.
    """
    constants, certain = Constants(tree), always_executed(tree)
    yield from _of_unknown(tree, script, words, constants)
    for node in _calls(tree, {"add_argument"}):
        is_required = constants.arguments_of(node).get("required") is True
        options = [str(constants.value_of(each)) for each in node.args]
        if is_required and options and not any(_is_given(option, words) for option in options):
            name = max(options, key=len)
            found = refusal(
                "script",
                name,
                f"{script.name}:{node.lineno}: the script requires {name}, which is not given.",
                f"Give it behind the script: {script.name} {name} VALUE",
            )
            is_sure = node in certain and not any(_calls(tree, _OPEN))
            yield found if is_sure else replace(found, verdict="doubtful")


def _of_unknown(
    tree: ast.Module, script: Path, words: Sequence[str], constants: Constants
) -> Iterator[Finding]:
    """Find options that a script's only parser does not have."""
    parsers = list(_calls(tree, {"ArgumentParser"}))
    if len(parsers) != 1 or any(_calls(tree, _OPEN)) or _is_handed_on(tree):
        return
    if any(word.arg is None or word.arg in _OF_OTHERS for word in parsers[0].keywords):
        return
    values = [constants.value_of(each) for call in _calls(tree, _ADDING) for each in call.args]
    known = [value for value in values if isinstance(value, str)]
    if len(known) < len(values) or not any(_calls(tree, {"parse_args"})):
        return
    for word in words:
        option = word.partition("=")[0]
        is_known = any(name.startswith(option) for name in [*known, "--help"])
        if option.startswith("--") and len(option) >= _SHORTEST and not is_known:
            yield refusal(
                "script",
                option,
                f"{script.name} has no option {option}, so it would end at once.",
                nearest_first(option, [name for name in known if name.startswith("--")]),
            )


def _is_handed_on(tree: ast.Module) -> bool:
    """Whether a parser, or a group of its options, may get options from elsewhere."""
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    parsers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _last(node.value) in _PARSERS
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    used = [node for node in named if node.id in parsers]
    stored = [node for node in used if isinstance(node.ctx, ast.Store)]
    called = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    is_passed = any(id(node) not in called for node in used if isinstance(node.ctx, ast.Load))
    return not parsers or len(stored) > len(parsers) or is_passed


def _last(node: ast.expr) -> str:
    """Return the last name of what is called; empty for anything but a call."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def _calls(tree: ast.Module, names: set[str]) -> Iterator[ast.Call]:
    """Yield the calls of functions and methods of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last(node) in names:
            yield node


def _is_given(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has an option, perhaps abbreviated, as argparse allows."""
    for word in words:
        typed = word.partition("=")[0]
        if len(typed) >= _SHORTEST and option.startswith(typed):
            return True
        if not option.startswith("--") and word.startswith(option):
            return True  # -n5
    return False
