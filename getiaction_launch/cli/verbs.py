"""The verbs of the command line: words to and from the user. They decide nothing.

The docstring of a verb's function is its help. Torch, Lightning and Ray are never imported here.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from getiaction_launch.backends.backend import Backend
from getiaction_launch.backends.flag import read_count
from getiaction_launch.cli import show
from getiaction_launch.cli.follow import print_logs, report
from getiaction_launch.cli.grammar import (
    add_cluster,
    add_json,
    default_root,
    launch_parser,
    parse_runs,
    read_environment,
    read_gpus,
    read_settings,
    runs_parser,
    split_tokens,
)
from getiaction_launch.cli.parser import Parser
from getiaction_launch.errors import UsageError
from getiaction_launch.launch import submit
from getiaction_launch.launch.sweep import expand
from getiaction_launch.plan.plan import DEFAULT_ROOT, Plan, SweepPoint
from getiaction_launch.plan.spec import leaves
from getiaction_launch.run.attempt import last_attempt
from getiaction_launch.run.run import find_run, list_runs
from getiaction_launch.storage.paths import open_path
from getiaction_launch.system.gpus import visible_gpus


def run(tokens: Sequence[str]) -> int:
    """Start a run; the verb may be left out.

    getiaction-launch run --nodes 2 --config act.yaml
    getiaction-launch run --cluster slurm --gpus-per-node 4 train.py --lr 3e-4
    """
    return launch(tokens, _launch_parser(run))


def check(tokens: Sequence[str]) -> int:
    """Say whether a run could start, without starting it.

    getiaction-launch check --nodes 2 --config act.yaml
    getiaction-launch check --cluster slurm --gpus-per-node 4 train.py --lr 3e-4
    """
    return launch(tokens, _launch_parser(check), only_check=True)


def launch(tokens: Sequence[str], parser: Parser, *, only_check: bool = False) -> int:
    """Start what is typed, or only check it.

    Args:
        tokens: The words of the command line behind the verb.
        parser: The parser of the command's own flags.
        only_check: Whether to say that the run could start, and not to start it.
    """
    arguments, plans, backend = _prepare(tokens, parser)
    plan = plans[0]
    if only_check or arguments.dry_run:
        spec, *_ = [submit.check(each, backend) for each in plans]
        values = leaves(spec) if spec else {}
        origins = submit.trace(plan, values)
        commands = backend.describe(plan)
        if arguments.sweep:
            show.say(f"a sweep of {len(plans)} runs; this is the first:")
        if arguments.json:
            content = {**plan.to_json(), "spec": spec, "origins": origins}
            show.print_json({"plan": content, "commands": commands})
        elif arguments.dry_run:
            print(show.plan_text(plan, values, origins, commands))
        else:
            show.say("ok: this run could start.")
        return 0
    if sys.stderr.isatty():
        show.say("checking and starting ...")  # seconds, in which torch is imported
    if arguments.sweep:
        runs = submit.submit_sweep(plans, backend, arguments.max_parallel)
    else:
        runs = [submit.submit(plan, backend)]
    return report(arguments, runs)


def _launch_parser(verb: Callable[..., int]) -> Parser:
    return launch_parser(f"getiaction-launch {verb.__name__}", verb.__doc__)


def _prepare(
    tokens: Sequence[str],
    parser: Parser,
    cluster: str = "local",
    free_gpus: Callable[[int], int | None] | None = None,
) -> tuple[argparse.Namespace, list[Plan], Backend]:
    tokens = tokens[1:] if tokens[:1] == ["fit"] else tokens
    own, overrides, script = split_tokens(tokens, parser.value_flags)
    arguments = parser.parse(own)
    read_environment(arguments, [key for key, _ in overrides])
    settings = read_settings(arguments)
    points: Sequence[SweepPoint | None] = [None]
    if arguments.sweep:
        points = expand(arguments.sweep, arguments.name or "sweep", is_spec=not script)
    elif arguments.max_parallel is not None:
        raise UsageError("--max-parallel needs --sweep.", "--sweep seed=1,2,3 --max-parallel 2")
    if arguments.max_parallel is not None and arguments.max_parallel < 1:
        raise UsageError(
            f"--max-parallel {arguments.max_parallel} starts nothing.", "--max-parallel 1 or more"
        )
    plans = []
    for point in points:
        plan, backend = submit.prepare(
            config=arguments.config,
            overrides=overrides,
            script=script,
            cluster=arguments.cluster or cluster,
            nodes=arguments.nodes,
            gpus_per_node=read_gpus(arguments.gpus_per_node)[1],
            workers_per_node=arguments.workers_per_node,
            name=arguments.name,
            storage_root=arguments.storage_root,
            settings=settings,
            sweep=point,
            free_gpus=free_gpus,
        )
        plans.append(plan)
    return arguments, plans, backend.resolve_runs(plans[0].root)


def ls(tokens: Sequence[str]) -> int:
    """List runs, the newest first.

    getiaction-launch ls
    getiaction-launch ls --json s3://bucket/experiments
    """
    parser = Parser.of(ls)
    root = "Directory or URL in which to look (default: ./experiments)"
    parser.add_argument("root", metavar="DIR", nargs="?", help=root)
    add_cluster(parser)
    arguments = add_json(parser).parse(tokens)
    root = arguments.root or default_root(arguments.cluster)
    runs = list_runs(root)
    if not runs and arguments.root and not open_path(root).is_dir():
        raise UsageError(f"ls {root}: there is no such directory.", "getiaction-launch ls PATH")
    statuses = submit.read_statuses(runs)
    if arguments.json:
        show.print_json({"runs": [show.as_json(status) for status in statuses]})
        return 0
    print(show.listing(statuses))
    return 0


def status(tokens: Sequence[str]) -> int:
    """Show where a run stands, or how it ended.

    getiaction-launch status @last
    getiaction-launch status --json pusht_act_v1/version_0
    """
    arguments = parse_runs(add_json(runs_parser(status)), tokens)
    found = submit.read_status(arguments.run)
    if arguments.json:
        show.print_json(show.as_json(found))
    elif found.state.is_over:
        print(show.summary(found))
    else:
        print(show.standing(found))
    return 0


def logs(tokens: Sequence[str]) -> int:
    """Print the logs of a run.

    getiaction-launch logs -f @last
    getiaction-launch logs -n 20 --rank 1 --attempt 0 pusht_act_v1/version_0
    """
    parser = runs_parser(logs)
    follow = "Print new lines until the run has ended"
    parser.add_argument("-f", "--follow", action="store_true", help=follow)
    rank = "Print the log of this worker only"
    parser.add_argument("--rank", type=int, metavar="N", help=rank)
    lines = "Print only the last N lines of each log; with -f, new lines follow"
    parser.add_argument("-n", "--lines", type=partial(read_count, least=0), metavar="N", help=lines)
    number = "Print the logs of this attempt (default: the newest)"
    parser.add_argument("--attempt", type=int, metavar="N", help=number)
    arguments = parse_runs(parser, tokens)
    newest = last_attempt(arguments.run)
    attempt = newest if arguments.attempt is None else arguments.attempt
    if not 0 <= attempt <= newest:
        raise UsageError(
            f"--attempt {attempt}: there is no such attempt.",
            f"Attempts of this run go from 0 to {newest}.",
        )
    watch = show.Watch() if arguments.follow else None
    return print_logs(arguments.run, arguments.rank, attempt, watch, arguments.lines)


def cancel(tokens: Sequence[str]) -> int:
    """Cancel runs; returns once every process has stopped.

    getiaction-launch cancel @last
    getiaction-launch cancel pusht_act_v1/version_0 pusht_act_v1/version_1
    """
    arguments = parse_runs(add_json(runs_parser(cancel, nargs="+")), tokens)
    for named in arguments.runs:
        ended = submit.cancel(named)
        if arguments.json:
            show.print_json(show.as_json(ended))
        else:
            print(f"run {ended.run.name} {ended.state.value}")
    return 0


def resume(tokens: Sequence[str]) -> int:
    """Resume a run that ended early, from its last checkpoint, in the same directory.

    getiaction-launch resume @last
    getiaction-launch resume s3://bucket/experiments/pusht_act_v1/version_0
    """
    parser = add_json(runs_parser(resume))
    force = (
        "Resume also if nobody can say whether its job still runs, since that machine or cluster "
        "is gone; if it does run, two jobs write to the directory for up to two minutes, until the "
        "old one notices and ends without saving"
    )
    parser.add_argument("--force", action="store_true", help=force)
    address = "Resume on the Ray cluster at this address, if the one of before is gone"
    parser.add_argument("--address", metavar="ADDRESS", help=address)
    arguments = parse_runs(parser, tokens)
    settings = {"address": arguments.address} if arguments.address else {}
    submit.resume(arguments.run, force=arguments.force, settings=settings)
    if arguments.json:
        show.print_json(show.as_json(submit.read_status(arguments.run)))
    else:
        print(show.next_commands([arguments.run]))
    return 0


def pull(tokens: Sequence[str]) -> int:
    """Copy a run, or one of its checkpoints, from remote storage.

    getiaction-launch pull s3://bucket/experiments/pusht_act_v1/version_0
    getiaction-launch pull --checkpoint newest s3://bucket/experiments/pusht_act_v1/version_0
    """
    from getiaction_launch.mirror.pull import NEWEST, pull_checkpoint, pull_run

    parser = runs_parser(pull)
    where = "Directory to copy to (default: experiments/NAME/version_N; for a checkpoint: .)"
    parser.add_argument("directory", metavar="DIR", nargs="?", help=where)
    which = f"Copy only this file of its checkpoints/; {NEWEST}: the last one that was saved"
    parser.add_argument("--checkpoint", metavar="NAME", help=which)
    arguments = parse_runs(parser, tokens)
    if arguments.checkpoint:
        print(
            pull_checkpoint(arguments.run, arguments.checkpoint, Path(arguments.directory or "."))
        )
        return 0
    target = Path(arguments.directory or Path(DEFAULT_ROOT, arguments.run.name))
    with show.transfer(arguments.run.name) as watch:
        pull_run(arguments.run, target, watch)
    print(target)
    return 0


def node(tokens: Sequence[str]) -> int:
    """Run one node of a run, started by srun in your own batch script.

    srun --ntasks-per-node=1 getiaction-launch node --nodes 2 --config act.yaml
    srun --ntasks-per-node=1 getiaction-launch node pusht_act_v1/version_0
    """
    from getiaction_launch.launch.cluster import find_cluster, read_cluster
    from getiaction_launch.launch.node import continue_here, start_here

    word = tokens[0] if len(tokens) == 1 else ""
    if word and not word.startswith("-") and not word.endswith((".py", ".yaml", ".yml")):
        found = find_run(word, default_root())
        return continue_here(found, lambda: read_cluster(find_cluster("slurm")).backend)
    # The scheduler has given this node its share of GPUs already.
    parser = _launch_parser(node)
    _, plans, backend = _prepare(tokens, parser, "slurm", lambda _: len(visible_gpus()))
    return start_here(plans[0], backend)


def clusters(tokens: Sequence[str]) -> int:
    """List the cluster configs that --cluster can name.

    getiaction-launch clusters
    getiaction-launch clusters --json
    """
    from getiaction_launch.launch.cluster import list_clusters

    arguments = add_json(Parser.of(clusters)).parse(tokens)
    found = {name: show.short(path) for name, path in list_clusters().items()}
    if arguments.json:
        show.print_json({"clusters": found})
    else:
        print(show.table([("CLUSTER", "CONFIG"), *found.items()]))
    return 0


def version(tokens: Sequence[str]) -> int:
    """Print the version of the launcher.

    getiaction-launch version
    getiaction-launch --version
    """
    from importlib import metadata

    Parser.of(version).parse(tokens)
    print("getiaction-launch", metadata.version("getiaction-launch"))
    return 0
