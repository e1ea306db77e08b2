"""What a script would do with its words and paths, which is read before anything of it is run."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.arguments import check_resuming
from getiaction_launch.checking.script.paths import check_paths_of_script
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.program import find_module

_CLI = ("lightning.pytorch.cli.LightningCLI", "pytorch_lightning.cli.LightningCLI")
_SUBCOMMANDS = {"fit", "validate", "test", "predict", "-h", "--help"}
_OWN_WORDS = ("run", "args", "subcommand")
"""Arguments of a LightningCLI that let it do without a subcommand, or get it elsewhere."""


def check_beforehand(plan: Plan, place: Place) -> Iterator[Finding]:
    """Check the words and paths of a script by its source.

    Args:
        plan: The plan of the run, whose program is there and can be parsed.
        place: Where the run would be started.
    """
    path = plan.script_path
    if plan.program == "module" and not place.other_environment:
        path = find_module(plan.script[0], plan.working_directory)
    if path is None:
        return
    source = Source(Path(path))
    yield from check_resuming(source, plan.resume_args)
    yield from check_paths_of_script(source, plan.working_directory)
    yield from _of_subcommand(source, plan.script[1:])


def _of_subcommand(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find a command line interface of Lightning without its subcommand."""
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
