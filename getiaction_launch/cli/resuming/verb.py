"""The verb ``resume``: which runs it means, what shall be different, and what it says."""

from collections.abc import Sequence
from functools import partial

from getiaction_launch.cli import show
from getiaction_launch.cli.follow import report
from getiaction_launch.cli.grammar import (
    RESTARTS,
    add_actions,
    add_flag,
    add_json,
    add_settings,
    add_trust,
    default_root,
    read_gpus,
    read_number,
    read_settings,
    split_tokens,
)
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.resuming.dry_run import show_changes
from getiaction_launch.errors import CheckError, LaunchError, UsageError
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
    parser = _parser()
    own, overrides, script = split_tokens(tokens, parser.value_flags)
    if script:
        raise UsageError(
            f"{script[0]!r}: resume takes no script and no arguments of one; a run keeps its own.",
            "To change them, start another run: getiaction-launch train.py ...",
        )
    arguments = parser.parse(own)
    if arguments.json and arguments.parsable:
        raise UsageError(
            "--json and --parsable both say what to print.", "--json has the directories, too."
        )
    kind, gpus = read_gpus(arguments.gpus_per_node)
    del kind  # one of the settings
    changes = Changes(
        cluster=arguments.cluster,
        nodes=arguments.nodes,
        gpus_per_node=gpus,
        workers_per_node=arguments.workers_per_node,
        overrides=overrides,
        settings=read_settings(arguments),
        is_code_now=arguments.code == "now",
    )
    roots = [arguments.root] if arguments.root else [default_root()]
    roots += [default_root(arguments.cluster)] if arguments.cluster and not arguments.root else []
    runs = find_runs(arguments.runs, roots)
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
    add = parser.add_argument_group("where to continue").add_argument
    add("--cluster", metavar="NAME", help="Cluster config, by name or path (default: as before)")
    nodes = "Number of nodes; with another number of workers, the order of samples differs"
    add("-N", "--nodes", type=read_number, metavar="N", help=nodes)
    add("--gpus-per-node", metavar="N", help="GPUs of each node, 0 for none")
    workers = "Workers of each node, for a script that trains on CPUs"
    add("--workers-per-node", type=read_number, metavar="N", help=workers)
    code = "Train a copy of the files as they are now, instead of the copy made at submission"
    add("--code", choices=["now"], help=code)
    add_actions(parser.add_argument_group("what to do").add_argument)
    add = parser.add_argument_group("restarts").add_argument
    for flag, text in RESTARTS.values():
        add_flag(add, flag).help = text
    add_settings(parser, None)
    return parser


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
