"""Options that a script requires by argparse, and that its command line does not have."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.constants import Constants
from getiaction_launch.checking.script.reach import always_executed

_SHORTEST = 3
"""Letters of the shortest abbreviation of an option, with its dashes."""


def check_arguments(tree: ast.Module, script: Path, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that argparse will miss.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script.
        words: The arguments of the script.
    """
    constants, certain = Constants(tree), always_executed(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        is_required = constants.arguments_of(node).get("required") is True
        if node.func.attr != "add_argument" or not is_required:
            continue
        options = [str(constants.value_of(each)) for each in node.args]
        if options and not any(_is_given(option, words) for option in options):
            name = max(options, key=len)
            found = refusal(
                "script",
                name,
                f"{script.name}:{node.lineno}: the script requires {name}, which is not given.",
                f"Give it behind the script: {script.name} {name} VALUE",
            )
            yield found if node in certain else replace(found, verdict="doubtful")


def _is_given(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has an option, perhaps abbreviated, as argparse allows."""
    for word in words:
        typed = word.partition("=")[0]
        if len(typed) >= _SHORTEST and option.startswith(typed):
            return True
        if not option.startswith("--") and word.startswith(option):
            return True  # -n5
    return False
