"""A script is read, and not run: its imports, its Trainers, and the processes that it starts."""

from collections.abc import Iterator
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


def check_program(plan: Plan, place: Place) -> Iterator[Finding]:
    """Check a script as far as its source says something.

    Args:
        plan: The plan of the run, whose script can be parsed.
        place: Where the run would be started.
    """
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
    yield unknown("training", "a script is not run before its run")
