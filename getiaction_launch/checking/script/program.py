"""A program is read, and then run up to its first fit if nothing was found in it."""

import ast
import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, ok, refusal, unknown
from getiaction_launch.checking.ranks.calls import check_calls
from getiaction_launch.checking.ranks.plain_ddp import check_plain_ddp
from getiaction_launch.checking.ranks.rank_zero import check_rank_0
from getiaction_launch.checking.ranks.skipping import check_skipping
from getiaction_launch.checking.ranks.variables import check_slurm, check_variables
from getiaction_launch.checking.script.arguments import check_arguments, check_resuming
from getiaction_launch.checking.script.detached import check_detached, check_wandb
from getiaction_launch.checking.script.entry import check_entry
from getiaction_launch.checking.script.imports import check_imports, count_imports
from getiaction_launch.checking.script.main_guard import check_guard
from getiaction_launch.checking.script.paths import check_paths_of_script
from getiaction_launch.checking.script.subcommand import check_subcommand
from getiaction_launch.checking.source.source import Names, Source, uses_fabric
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.program import find_module, is_whole, require_command

_LIGHTNING = {"lightning", "getiaction"}
_LAUNCHERS = {
    *("torchrun", "accelerate", "deepspeed", "horovodrun", "mpirun", "mpiexec", "srun"),
    *("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"),
}
"""Commands and modules that start workers themselves."""
_MOST_FILES = 200
"""How many files of the user's own are looked at for an import of Lightning."""


def check_program(plan: Plan, place: Place, *, is_deep: bool) -> Iterator[Finding]:
    """Check a program by its source, and what it would train by a trial.

    Args:
        plan: The plan of the run, whose program is there and can be parsed.
        place: Where the run would be started.
        is_deep: Whether the trial may take any time and any memory.
    """
    key = place.other_environment
    if plan.program != "script" and plan.script[0] in _LAUNCHERS:
        yield from _of_launcher(plan)
    if plan.program == "command":
        yield from _of_command(plan, key)
        return
    path = plan.script_path
    if plan.program == "module" and not key:
        path = find_module(plan.script[0], plan.working_directory)
    if path is None:
        why = f"the workers may have another one, by the setting {key}" if key else "it is compiled"
        yield unknown("script", f"module {plan.script[0]} is not read: {why}")
        return
    source = Source(path)
    found = list(_read(source, plan, place))
    yield from found
    if any(finding.is_refusal for finding in found):
        return
    if key:
        yield unknown("training", f"the workers have another environment, by the setting {key}")
        return
    modules = _modules_of(source, Path(plan.working_directory))
    if not modules & (_LIGHTNING | {"torch"}):
        yield unknown("training", f"a {plan.program} without torch is not run before its run")
        return
    from getiaction_launch.checking.trial.program import try_program

    is_plain = not modules & _LIGHTNING or uses_fabric(source)
    yield from try_program(plan, source, place, is_deep=is_deep, is_plain=is_plain)


def _read(source: Source, plan: Plan, place: Place) -> Iterator[Finding]:
    if key := place.other_environment:
        yield unknown("imports", f"the workers may have other packages, by the setting {key}")
    else:
        module = plan.script[0] if plan.program == "module" else None
        home = plan.working_directory if module else place.settings.get("working_dir")
        found = list(check_imports(source.tree, source.path, home, module))
        yield from found or [ok("imports", f"{count_imports(source.tree)} modules are found")]
    found = [
        *check_resuming(source, plan.resume_args),
        *check_paths_of_script(source, plan.working_directory),
        *check_subcommand(source, plan.script[1:]),
        *check_calls(source, plan.topology),
        *check_plain_ddp(source, plan.topology),
        *check_skipping(source, plan.topology),
        *check_guard(source),
        *check_entry(source),
        *check_detached(source, plan),
        *(() if place.other_environment else check_wandb(source, plan, place)),
        *check_variables(source, plan),
        *check_rank_0(source, plan.topology),
        *(() if place.has_queue or place.other_environment else check_slurm(source, plan)),
        *check_arguments(source, plan.script[1:]),
    ]
    yield from found or [ok("script", f"{source.name} fits the launch, as far as it can be read")]


def _modules_of(source: Source, home: Path) -> set[str]:
    """Return what a program and the modules beside it import, as far as to the first Lightning."""
    folders, todo, seen = {source.path.parent, home}, [source.names], {source.path}
    found: set[str] = set()
    for names in todo:
        found |= names.modules
        if found & _LIGHTNING:
            return found  # and what else there is does not matter
        for path in (path for folder in folders for path in _beside(folder, names.modules)):
            if path not in seen and len(seen) < _MOST_FILES:
                seen.add(path)
                with contextlib.suppress(OSError, SyntaxError, ValueError):
                    todo.append(Names(ast.parse(path.read_bytes())))
    return found


def _beside(folder: Path, modules: Iterable[str]) -> Iterator[Path]:
    for name in sorted(modules):
        if (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        elif (folder / name).is_dir():
            yield from sorted((folder / name).rglob("*.py"))


def _of_launcher(plan: Plan) -> Iterator[Finding]:
    """Refuse a program that starts workers, in each of the workers that the launcher starts."""
    name, world = plan.script[0], plan.topology.world_size
    scripts = [word for word in plan.script[1:] if word.endswith(".py")]
    if world > 1:
        yield refusal(
            "processes",
            name,
            f"{name} starts workers of its own in each of the {world} workers of the launch.",
            f"Launch the script itself: {' '.join(scripts[:1]) or 'train.py'}; the launcher starts "
            "one worker for each device, with torchrun's environment",
        )


def _of_command(plan: Plan, key: str | None) -> Iterator[Finding]:
    """Look up a command; what stands in a package that somebody else maintains is not judged."""
    name = plan.script[0]
    if key:
        yield unknown("script", f"the workers may have another {name}, by the setting {key}")
        return
    entry = require_command(name)
    owner = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    if is_whole(entry):
        yield ok("script", f"{name}{owner} calls {entry.value}")
    else:
        yield refusal(
            "script",
            name,
            f"{name} is a command{owner} that calls {entry.value}, but there is no module "
            f"{entry.module!r} in this environment.",
            f"Install the package again: {sys.executable} -m pip install --force-reinstall "
            f"{entry.dist.name if entry.dist else 'PACKAGE'}",
        )
    yield unknown("training", "a command is not run before its run")
