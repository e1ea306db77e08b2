"""A command line interface of Lightning, which is typed with a subcommand."""

import ast
from collections.abc import Iterator, Sequence

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.source import Source

_CLI = ("lightning.pytorch.cli.LightningCLI", "pytorch_lightning.cli.LightningCLI")
_SUBCOMMANDS = {"fit", "validate", "test", "predict", "-h", "--help"}
_OWN_WORDS = ("run", "args", "subcommand")
"""Arguments of a LightningCLI that let it do without a subcommand, or get it elsewhere."""


def check_subcommand(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find a command line interface of Lightning without its subcommand.

    Args:
        source: The script, as it was read.
        words: The arguments of the script.
    """
    if not _SUBCOMMANDS.isdisjoint(words) or "sys.argv" in source.text:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or source.names.of(node.func) not in _CLI:
            continue
        named = [word.arg for word in node.keywords]
        if None not in named and not set(_OWN_WORDS) & set(named) and not _has_star(node):
            shown = " ".join(["fit", *words])
            what = f"{source.at(node)}: LightningCLI needs a subcommand, and none is given."
            fix = f"Name it first: {source.name} {shown}"
            yield source.judged(refusal("script", "fit", what, fix), node)


def _has_star(node: ast.Call) -> bool:
    return any(isinstance(each, ast.Starred) for each in node.args)
