"""The verb ``resume``: which runs it means, what shall be different, and what it says."""

from collections.abc import Sequence
from functools import partial

from getiaction_launch.cli import show
from getiaction_launch.cli.follow import report
from getiaction_launch.cli.grammar import add_json, add_trust
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.resuming.changing import add_changes, parse_changes, roots_of
from getiaction_launch.cli.resuming.dry_run import show_changes
from getiaction_launch.errors import CheckError, LaunchError
from getiaction_launch.launch.finding.find import find_runs
from getiaction_launch.launch.resuming.change import Changed, Changes
from getiaction_launch.launch.resuming.resume import resume as start_again
from getiaction_launch.launch.status import read_status
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState


def resume(tokens: Sequence[str]) -> int:
    """Resume runs from their last checkpoint, in their directories, here or elsewhere.

    getiaction-launch resume --cluster slurm --nodes 1 pusht_act_v1/version_0
    getiaction-launch resume --trainer.max_epochs=400 --wait pusht_act_v1/version_0
    """
    arguments, changes = parse_changes(_parser(), tokens, "resume")
    runs = find_runs(arguments.runs, roots_of(arguments))
    arguments.sweep = len(runs) > 1  # --json has a list then
    if arguments.dry_run:
        return show_changes(runs, changes, force=arguments.force, as_json=arguments.json)
    started, errors = [], []
    for run in runs:
        if len(runs) > 1 and (why := _is_settled(run, changes)):
            show.say(f"run {run.name} {why}; it is not resumed.")
            continue
        try:
            start_again(
                run,
                force=arguments.force,
                trust=arguments.trust,
                changes=changes,
                report=partial(_say_changes, run),
            )
            started.append(run)
        except LaunchError as error:
            errors.append(error)
            if len(runs) > 1:
                show.say(f"run {run.name} was not resumed: {error.what}")
    if not started:
        raise (
            errors[0]
            if errors
            else CheckError(
                f"none of the {len(runs)} runs can be resumed: all have finished or may still run.",
                "To train for longer, raise a limit: --trainer.max_epochs=N",
            )
        )
    code = report(arguments, started)
    if errors:
        raise errors[0]
    return code if arguments.wait or arguments.follow else 0


def _parser() -> Parser:
    parser = Parser.of(resume)
    names = (
        "Directory or URL of a run, name/version_N, the name of a sweep as `ls` shows it, or @last"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help=names)
    root = "Directory or URL in which to find name/version_N (default: ./experiments)"
    parser.add_argument("--root", metavar="DIR", help=root)
    add_trust(add_json(parser))
    force = (
        "Resume also if nobody can say whether its job still runs, since that machine or cluster "
        "is gone; if it does run, two jobs write to the directory for up to two minutes, until the "
        "old one notices and ends without saving"
    )
    parser.add_argument("--force", action="store_true", help=force)
    parser.epilog = (
        "Dotted flags such as --trainer.max_epochs=400 change a spec from here on; what the "
        "checkpoint\ndecides, such as --model.*, cannot change. A script keeps its own arguments.\n"
        "Whatever is not given stays as it was."
    )
    return add_changes(parser, "where to continue")


def _is_settled(run: Run, changes: Changes) -> str:
    """Say why a run needs no resuming, if several are named; empty if it does."""
    state = read_status(run).state
    if state is JobState.SUCCEEDED and not changes.raises_limit:
        return "has finished"
    return f"is {state.value}" if state in (JobState.RUNNING, JobState.PENDING) else ""


def _say_changes(run: Run, changed: Changed) -> None:
    for words in changed.notes:
        show.say(f"run {run.name}: {words}")
    for words in changed.warnings:
        show.say(f"warning: run {run.name}: {words}")
