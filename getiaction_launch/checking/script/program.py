"""A script is read, and then run up to its first fit if nothing was found in it."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, ok, unknown
from getiaction_launch.checking.script.arguments import check_arguments
from getiaction_launch.checking.script.calls import check_calls
from getiaction_launch.checking.script.detached import check_detached
from getiaction_launch.checking.script.imports import check_imports, count_imports
from getiaction_launch.checking.script.main_guard import check_guard
from getiaction_launch.checking.script.source import Source
from getiaction_launch.plan.plan import Plan

_LIGHTNING = {"lightning", "getiaction"}
_MOST_FILES = 200
"""How many files of the user's own are looked at for an import of Lightning."""


def check_program(plan: Plan, place: Place, *, is_deep: bool) -> Iterator[Finding]:
    """Check a script by its source, and what it would train by a trial.

    Args:
        plan: The plan of the run, whose script can be parsed.
        place: Where the run would be started.
        is_deep: Whether the trial may take any time and any memory.
    """
    found = list(_read(plan, place))
    yield from found
    if any(finding.is_refusal for finding in found):
        return
    if place.other_environment:
        yield unknown(
            "training", f"the workers have another environment: {place.other_environment}"
        )
    elif not _uses_lightning(Source(Path(plan.script[0]))):
        yield unknown("training", "a script without Lightning is not run before its run")
    else:
        from getiaction_launch.checking.trial.program import try_program

        yield from try_program(plan, place, is_deep=is_deep)


def _read(plan: Plan, place: Place) -> Iterator[Finding]:
    source = Source(Path(plan.script[0]))
    if key := place.other_environment:
        yield unknown("imports", f"the workers may have other packages, by the setting {key}")
    else:
        found = list(check_imports(source.tree, source.path, place.settings.get("working_dir")))
        yield from found or [ok("imports", f"{count_imports(source.tree)} modules are found")]
    found = [
        *check_calls(source, plan.topology),
        *check_guard(source),
        *check_detached(source, plan),
        *check_arguments(source, plan.script[1:]),
    ]
    yield from found or [ok("script", f"{source.name} fits the launch, as far as it can be read")]


def _uses_lightning(source: Source) -> bool:
    """Whether a script, or a module beside it that it imports, imports Lightning."""
    todo, seen = [source], {source.path}
    for each in todo:
        if not _LIGHTNING.isdisjoint(each.names.modules):
            return True
        for path in _beside(source.path.parent, each.names.modules):
            if path not in seen and len(seen) < _MOST_FILES:
                seen.add(path)
                with contextlib.suppress(OSError, SyntaxError, ValueError):
                    todo.append(Source(path))
    return False


def _beside(folder: Path, modules: Iterable[str]) -> Iterator[Path]:
    for name in sorted(modules):
        if (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        elif (folder / name).is_dir():
            yield from sorted((folder / name).rglob("*.py"))
