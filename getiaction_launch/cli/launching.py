"""What ``run``, ``check`` and ``node`` share: from the words of a command to plans and a start."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from getiaction_launch.backends.backend import Backend
from getiaction_launch.cli import show
from getiaction_launch.cli.follow import report
from getiaction_launch.cli.grammar import (
    launch_parser,
    read_environment,
    read_settings,
)
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.typed.behind_script import own_words
from getiaction_launch.cli.typed.gpus import read_gpus
from getiaction_launch.cli.typed.words import split_tokens
from getiaction_launch.errors import UsageError
from getiaction_launch.launch import submit
from getiaction_launch.launch.check import check_place, check_points
from getiaction_launch.launch.sweep import expand
from getiaction_launch.plan.plan import Plan, SweepPoint
from getiaction_launch.plan.spec import leaves


def launch(tokens: Sequence[str], parser: Parser) -> int:
    """Start what is typed.

    Args:
        tokens: The words of the command line behind the verb.
        parser: The parser of the command's own flags.
    """
    arguments, plans, backend = prepare(tokens, parser)
    plan = plans[0]
    if arguments.dry_run:
        from getiaction_launch.launch.freezing.freeze import describe  # slow to import

        plan = describe(plan)
        check_place(plans[0], backend)
        spec = check_points(plans, backend)
        values = leaves(spec) if spec else {}
        origins = submit.trace(plan, values)
        commands = backend.describe(plan)
        if arguments.sweep:
            show.say(f"a sweep of {len(plans)} runs; this is the first:")
        if arguments.json:
            content = {**plan.to_json(), "spec": spec, "origins": origins}
            show.print_json({"plan": content, "commands": commands})
        else:
            print(show.plan_text(plan, values, origins, commands))
        return 0
    if sys.stderr.isatty():
        show.say("checking and starting ...")  # seconds, in which torch is imported
    is_checked = not arguments.no_check
    if arguments.sweep:
        most = arguments.max_parallel
        runs = submit.submit_sweep(plans, backend, most, is_checked=is_checked)
    else:
        runs = [submit.submit(plan, backend, is_checked=is_checked)]
    return report(arguments, runs)


def parser_of(verb: Callable[..., int], name: Literal["run", "check", "node"]) -> Parser:
    """The flags of a verb that takes what can be launched; its docstring explains it."""
    return launch_parser(f"getiaction-launch {name}", verb.__doc__, verb=name)


def prepare(
    tokens: Sequence[str],
    parser: Parser,
    cluster: str = "local",
    free_gpus: Callable[[int], int | None] | None = None,
) -> tuple[argparse.Namespace, list[Plan], Backend]:
    """Parse a command, and plan the runs that it starts.

    Args:
        tokens: The words of the command line behind the verb.
        parser: The parser of the command's own flags.
        cluster: The cluster config to use if none is named.
        free_gpus: Replaces the function of the backend that counts the GPUs of a node.

    Returns:
        The parsed flags, a plan for each run, and the backend that starts them.
    """
    tokens = tokens[1:] if tokens[:1] == ["fit"] else tokens
    own, overrides, script = split_tokens(tokens, parser.value_flags)
    arguments = parser.parse(own)
    script = own_words(parser, tokens, script)
    read_environment(arguments, [key for key, _ in overrides])
    from getiaction_launch.launch.cluster import find_cluster, read_cluster  # slow to import

    settings = {**read_settings(arguments)}
    if arguments.no_snapshot:
        settings["snapshot.enabled"] = ("--no-snapshot", False)
    points: Sequence[SweepPoint | None] = [None]
    if arguments.sweep:
        points = expand(arguments.sweep, arguments.name or "sweep", is_spec=not script)
    elif arguments.max_parallel is not None:
        raise UsageError("--max-parallel needs --sweep.", "--sweep seed=1,2,3 --max-parallel 2")
    if arguments.json and arguments.parsable:
        raise UsageError(
            "--json and --parsable both say what to print.", "--json has the directories, too."
        )
    plans = []
    config = find_cluster(arguments.cluster or cluster)
    place = read_cluster(config, settings)  # once for all points
    for point in points:
        plan, backend = submit.prepare(
            config=arguments.config,
            overrides=overrides,
            script=script,
            cluster=str(config),
            place=place,
            nodes=arguments.nodes,
            gpus_per_node=read_gpus(arguments.gpus_per_node)[1],
            workers_per_node=arguments.workers_per_node,
            name=arguments.name,
            storage_root=arguments.storage_root,
            settings=settings,
            sweep=point,
            free_gpus=free_gpus,
            resume_args=arguments.resume_args,
        )
        plans.append(plan)
    return arguments, plans, backend.resolve_runs(plans[0].root)
