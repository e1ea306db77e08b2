"""The verbs of the command line: words to and from the user. It decides nothing.

Torch, Lightning and Ray are never imported here.
"""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from getiaction_launch.backends.backend import Backend
from getiaction_launch.cli import settings
from getiaction_launch.cli import show as console
from getiaction_launch.cli.follow import print_logs, report
from getiaction_launch.cli.grammar import (
    Parser,
    read_environment,
    read_gpus,
    run_parser,
    split_tokens,
)
from getiaction_launch.errors import LaunchError, UsageError, nearest_first
from getiaction_launch.launch import submit as launch
from getiaction_launch.launch.dependency import resolve
from getiaction_launch.launch.status import backend_of
from getiaction_launch.launch.sweep import expand
from getiaction_launch.plan.plan import DEFAULT_ROOT, Plan
from getiaction_launch.plan.spec import leaves
from getiaction_launch.run.attempt import last_attempt
from getiaction_launch.run.run import find_run, list_runs
from getiaction_launch.storage.paths import open_path, use_options
from getiaction_launch.system.gpus import visible_gpus

EXIT_INTERRUPTED = 130
ALIASES = {"--version": "version", "list": "ls", "ps": "ls", "stop": "cancel"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``getiaction-launch``; returns the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens and not any(word.endswith(".py") for word in tokens)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # logs hold what a terminal may not
    try:
        return _run_verb([word for word in tokens if word != "--debug"] if debug else tokens)
    except LaunchError as error:
        if debug:
            raise
        console.say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `| head` has closed our output; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED


def _run_verb(tokens: list[str]) -> int:
    word = tokens[0] if tokens else ""
    if command := VERBS.get(ALIASES.get(word, word)):
        return command(tokens[1:])
    if word and not word.startswith("-") and not word.endswith(".py") and word != "fit":
        raise UsageError(
            f"{word!r} is neither a verb nor a script: a script's name ends in .py.",
            nearest_first(word, VERBS),
        )
    return run_or_check(tokens, only_check=False)


def _prepare(
    tokens: Sequence[str],
    cluster: str = "local",
    free_gpus: Callable[[int], int | None] | None = None,
) -> tuple[argparse.Namespace, list[Plan], Backend]:
    own, overrides, script = split_tokens(tokens[1:] if tokens[:1] == ["fit"] else tokens)
    arguments = run_parser().parse(own)
    read_environment(arguments, [key for key, _ in overrides])
    cluster_settings = dict(settings.read_settings(arguments))
    gpu_type, gpus = read_gpus(arguments.gpus_per_node)
    if gpu_type:
        cluster_settings[f"{settings.BACKEND}.gpu_type"] = ("--gpus-per-node", gpu_type)
    points: list[dict[str, Any]] = [{}]
    if arguments.sweep:
        points = expand(arguments.sweep, arguments.name or "sweep", is_spec=not script)
    elif arguments.max_parallel is not None:
        raise UsageError("--max-parallel is of a sweep.", "--sweep seed=1,2,3 --max-parallel 2")
    if arguments.max_parallel is not None and arguments.max_parallel < 1:
        raise UsageError(f"--max-parallel {arguments.max_parallel} starts nothing.", "1 or more")
    plans = []
    for point in points:
        plan, backend = launch.prepare(
            config=arguments.config,
            overrides=overrides,
            script=script,
            cluster=arguments.cluster or cluster,
            nodes=arguments.nodes,
            gpus_per_node=gpus,
            workers_per_node=arguments.workers_per_node,
            name=arguments.name,
            storage_root=arguments.storage_root,
            settings=cluster_settings,
            sweep=point,
            free_gpus=free_gpus,
        )
        plans.append(plan)
    if dependency := getattr(backend, "dependency", None):
        ids = resolve(dependency, plans[0].root) or None
        backend = dataclasses.replace(backend, dependency=ids)  # type: ignore[type-var] # it is one
    return arguments, plans, backend


def run_or_check(tokens: Sequence[str], *, only_check: bool) -> int:
    """``getiaction-launch [run] ...`` and ``getiaction-launch check ...``."""
    arguments, plans, backend = _prepare(tokens)
    plan = plans[0]
    if only_check or arguments.dry_run:
        spec, *_ = [launch.check(each, backend) for each in plans]
        values = leaves(spec) if spec else {}
        origins = launch.trace(plan, values)
        commands = backend.describe(plan)
        if arguments.sweep:
            console.say(f"a sweep of {len(plans)} runs; this is the first:")
        if arguments.json:
            content = {**plan.to_json(), "spec": spec, "origins": origins}
            console.print_json({"plan": content, "commands": commands})
        elif arguments.dry_run:
            print(console.plan_text(plan, values, origins, commands))
        else:
            console.say("ok: this run could start.")
        return 0
    if sys.stderr.isatty():
        console.say("checking and starting ...")  # seconds, in which torch is imported
    if arguments.sweep:
        runs = launch.submit_sweep(plans, backend, arguments.max_parallel)
    else:
        runs = [launch.submit(plan, backend)]
    return report(arguments, runs)


def show_list(tokens: Sequence[str]) -> int:
    """``getiaction-launch ls [ROOT]``."""
    parser = Parser(prog="getiaction-launch ls", description="List runs, the latest first.")
    parser.add_argument("root", nargs="?", help="directory or URL (default: ./experiments)")
    parser.add_argument("--cluster", help="look in the storage_root of this cluster config")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    root = arguments.root or _default_root(arguments.cluster)
    runs = list_runs(root)
    if not runs and arguments.root and not open_path(root).is_dir():
        raise UsageError(f"ls {root}: there is no such directory.", "getiaction-launch ls PATH")
    statuses = launch.read_statuses(runs)
    if arguments.json:
        console.print_json({"runs": [console.as_json(status) for status in statuses]})
        return 0
    print(console.listing(statuses))
    return 0


def _parse_run(verb: str, description: str, tokens: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=f"getiaction-launch {verb}", description=description)
    names = "its directory or URL, name/version_N, or @last"
    parser.add_argument("runs", metavar="run", nargs="+" if verb == "cancel" else 1, help=names)
    parser.add_argument("--root", help="where named runs lie (default: ./experiments)")
    parser.add_argument("--cluster", help="look in the storage_root of this cluster config")
    if verb == "logs":
        parser.add_argument("-f", "--follow", action="store_true", help="until the run ends")
        parser.add_argument("--rank", type=int, help="only this worker's")
        parser.add_argument("--attempt", type=int, help="of this attempt (default: the newest)")
    else:
        parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    root = arguments.root or _default_root(arguments.cluster)
    arguments.runs = [find_run(name, root) for name in arguments.runs]
    arguments.run = arguments.runs[0]
    return arguments


def show_status(tokens: Sequence[str]) -> int:
    """``getiaction-launch status RUN``."""
    arguments = _parse_run("status", "Show where a run stands.", tokens)
    status = launch.read_status(arguments.run)
    if arguments.json:
        console.print_json(console.as_json(status))
    elif status.state.is_over:
        print(console.summary(status))
    else:
        print(console.standing(status))
    return 0


def show_logs(tokens: Sequence[str]) -> int:
    """``getiaction-launch logs [-f] [--rank N] [--attempt N] RUN``."""
    arguments = _parse_run("logs", "Print a run's logs.", tokens)
    newest = last_attempt(arguments.run)
    attempt = newest if arguments.attempt is None else arguments.attempt
    if not 0 <= attempt <= newest:
        raise UsageError(f"--attempt {attempt}: there is none.", f"They go from 0 to {newest}.")
    watch = console.Watch() if arguments.follow else None
    return print_logs(arguments.run, arguments.rank, attempt, watch)


def cancel(tokens: Sequence[str]) -> int:
    """``getiaction-launch cancel RUN...``."""
    arguments = _parse_run("cancel", "End runs on all their nodes.", tokens)
    for run in arguments.runs:
        status = launch.cancel(run)
        if arguments.json:
            console.print_json(console.as_json(status))
        else:
            print(f"run {status.run.name} {status.state.value}")
    return 0


def resume(tokens: Sequence[str]) -> int:
    """``getiaction-launch resume RUN``."""
    arguments = _parse_run("resume", "Go on with a run that has ended too early.", tokens)
    launch.resume(arguments.run)
    if arguments.json:
        console.print_json(console.as_json(launch.read_status(arguments.run)))
    else:
        print(console.next_commands([arguments.run]))
    return 0


def pull(tokens: Sequence[str]) -> int:
    """``getiaction-launch pull [--checkpoint NAME] RUN [DIR]``."""
    from getiaction_launch.mirror.pull import NEWEST, pull_checkpoint, pull_run

    parser = Parser(prog="getiaction-launch pull", description="Copy a run from remote storage.")
    parser.add_argument("run", help="its URL, or name/version_N or @last under --root")
    where = "where to (default: ./experiments/NAME/version_N; of a checkpoint: here)"
    parser.add_argument("directory", nargs="?", help=where)
    which = f"only that file of its checkpoints/; {NEWEST}: the last of all that were saved"
    parser.add_argument("--checkpoint", metavar="NAME", help=which)
    parser.add_argument("--root", help="URL under which named runs lie")
    parser.add_argument("--cluster", help="look in the storage_root of this cluster config")
    arguments = parser.parse(tokens)
    run = find_run(arguments.run, arguments.root or _default_root(arguments.cluster))
    if arguments.checkpoint:
        print(pull_checkpoint(run, arguments.checkpoint, Path(arguments.directory or ".")))
        return 0
    target = Path(arguments.directory or Path(DEFAULT_ROOT, run.name))
    with console.transfer(run.name) as watch:
        pull_run(run, target, watch)
    print(target)
    return 0


def node(tokens: Sequence[str]) -> int:
    """``srun getiaction-launch node RUN_OR_CONFIG``: one node's share, in a batch script."""
    from getiaction_launch.backends.slurm import SlurmBackend
    from getiaction_launch.backends.slurm.step import claim_run, is_own, run_step, take_over

    word = tokens[0] if len(tokens) == 1 else ""
    if word and not word.startswith("-") and not word.endswith((".py", ".yaml", ".yml")):
        run = find_run(word, _default_root())
        before = backend_of(run, run.read("job") or {})
        slurm = before if isinstance(before, SlurmBackend) else SlurmBackend()
        if not is_own(run):
            if os.environ.get("SLURM_NODEID") == "0":
                launch.check_resumable(run)
            take_over(run, slurm.record)
        return run_step(run, slurm.company)
    # SLURM has given this node its share of GPUs already.
    arguments, plans, backend = _prepare(tokens, "slurm", lambda _: len(visible_gpus()))
    if not isinstance(backend, SlurmBackend):
        raise UsageError(
            f"--cluster {arguments.cluster}: `getiaction-launch node` is a node of a SLURM job.",
            "--cluster slurm   or   --cluster ray-on-slurm",
        )
    return run_step(claim_run(plans[0], backend.record), backend.company)


def show_clusters(tokens: Sequence[str]) -> int:
    """``getiaction-launch clusters``."""
    from getiaction_launch.launch.cluster import list_clusters

    parser = Parser(prog="getiaction-launch clusters", description="List the cluster configs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    clusters = {name: console.short(path) for name, path in list_clusters().items()}
    if arguments.json:
        console.print_json({"clusters": clusters})
    else:
        print(console.table([("CLUSTER", "CONFIG"), *clusters.items()]))
    return 0


def show_version(tokens: Sequence[str]) -> int:
    """``getiaction-launch version``."""
    from importlib import metadata

    Parser(prog="getiaction-launch version", description="Print the version.").parse(tokens)
    print("getiaction-launch", metadata.version("getiaction-launch"))
    return 0


def _default_root(cluster: str | None = None) -> str:
    """Where a run lies that says nothing of it."""
    from getiaction_launch.launch.cluster import find_cluster, read_cluster

    cluster = cluster or os.environ.get("GETIACTION_LAUNCH_CLUSTER")
    root = os.environ.get("GETIACTION_LAUNCH_STORAGE_ROOT")
    if cluster:
        place = read_cluster(find_cluster(cluster))
        root = root or place.storage_root
        use_options(root or "", place.storage_options)
    return f"{root.rstrip('/')}/{DEFAULT_ROOT}" if root else DEFAULT_ROOT


VERBS = {
    "run": lambda tokens: run_or_check(tokens, only_check=False),
    "check": lambda tokens: run_or_check(tokens, only_check=True),
    "ls": show_list,
    "status": show_status,
    "logs": show_logs,
    "cancel": cancel,
    "resume": resume,
    "pull": pull,
    "node": node,
    "clusters": show_clusters,
    "version": show_version,
}
