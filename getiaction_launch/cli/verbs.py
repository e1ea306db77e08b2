"""The verbs of the command line: words to and from the user. They decide nothing.

The docstring of a verb's function is its help. Torch, Lightning and Ray are never imported here.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.cli import show, standing
from getiaction_launch.cli.grammar import (
    TRUST,
    VARIABLE,
    add_json,
    add_trust,
    default_root,
    parse_runs,
    runs_parser,
)
from getiaction_launch.cli.launching import launch, parser_of, prepare
from getiaction_launch.cli.listing.table import listing
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.runs import unlaunched
from getiaction_launch.cli.runs.board import total
from getiaction_launch.errors import LaunchError, UsageError
from getiaction_launch.launch import submit
from getiaction_launch.launch.listing.entry import entries_of
from getiaction_launch.plan.plan import DEFAULT_ROOT
from getiaction_launch.plan.text import clean_line
from getiaction_launch.run.reading.find import find_run
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.system.gpus import visible_gpus


def run(tokens: Sequence[str]) -> int:
    """Start a run; the verb may be left out.

    getiaction-launch run --nodes 2 --config act.yaml
    getiaction-launch run --cluster slurm --gpus-per-node 4 train.py --lr 3e-4
    """
    return launch(tokens, parser_of(run, "run"))


def status(tokens: Sequence[str]) -> int:
    """Show where a run stands, or how it ended; of several or a sweep, a line each.

    getiaction-launch status @last
    getiaction-launch status --json pusht_act_v1/version_0
    """
    parser = add_json(runs_parser(status, nargs="+"))
    arguments = parse_runs(parser, tokens, is_any=True)
    statuses = [unlaunched.with_metrics(each) for each in submit.read_statuses(arguments.runs)]
    found = statuses[0]
    if arguments.json:
        listed = [
            {**show.as_json(each), **standing.as_json(each), **unlaunched.as_json(each)}
            for each in statuses
        ]
        show.print_json({"runs": listed} if len(listed) > 1 else listed[0])
    elif len(statuses) > 1:
        print(f"{listing(entries_of(statuses))}\n{total(statuses)}")
    elif found.unlaunched:
        print(unlaunched.text(found))
    elif found.state.is_over:
        print(show.summary(found))
    else:
        print(standing.standing(found))
    return 0


def cancel(tokens: Sequence[str]) -> int:
    """Cancel runs; returns once every process has stopped.

    getiaction-launch cancel @last
    getiaction-launch cancel sweep-1a2b3c4d pusht_act_v1/version_1
    """
    arguments = parse_runs(add_trust(add_json(runs_parser(cancel, nargs="+"))), tokens)
    ended, errors = [], []
    # The last one first: otherwise a sweep would start each point that waits, to cancel it then.
    for named in reversed(arguments.runs):
        try:
            ended.append(submit.cancel(named, trust=arguments.trust))
        except LaunchError as error:  # noqa: PERF203 - the others are cancelled all the same
            errors.append(error)
        else:
            if not arguments.json:
                words = f"run {ended[-1].run.name} {ended[-1].state.value}"
                print(clean_line(words), flush=True)
    if errors:
        raise errors[0]
    if arguments.json:
        listed = [show.as_json(status) for status in reversed(ended)]
        show.print_json({"runs": listed} if len(listed) > 1 else listed[0])
    return 0


def pull(tokens: Sequence[str]) -> int:
    """Copy a run from remote storage, or find or copy one of its checkpoints.

    getiaction-launch pull s3://bucket/experiments/pusht_act_v1/version_0
    getiaction-launch pull --checkpoint newest s3://bucket/experiments/pusht_act_v1/version_0
    """
    from getiaction_launch.mirror.pull import NEWEST, find_checkpoint, pull_checkpoint, pull_run

    parser = add_json(runs_parser(pull))
    where = (
        "Directory to copy to (default: experiments/NAME/version_N; for a checkpoint: ., or where "
        "it is if that is a directory of this machine)"
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", help=where)
    which = (
        f"Copy only this file of its checkpoints/; {NEWEST}: the last one that was saved; best: "
        "the only one that a ModelCheckpoint has kept"
    )
    parser.add_argument("--checkpoint", metavar="NAME", help=which)
    arguments = parse_runs(parser, tokens)
    found, name = arguments.run, arguments.checkpoint
    if name and not arguments.directory and not is_remote(found.directory):
        target = find_checkpoint(found, name)
    elif name:
        target = pull_checkpoint(found, name, Path(arguments.directory or "."))
    else:
        target = Path(arguments.directory or Path(DEFAULT_ROOT, found.name))
        with show.transfer(found.name) as watch:
            pull_run(found, target, watch)
    if arguments.json:
        show.print_json({"path": str(target.absolute())})
    else:
        print(target)
    return 0


def node(tokens: Sequence[str]) -> int:
    """Run one node of a run, started by srun in your own batch script.

    srun --ntasks-per-node=1 getiaction-launch node --nodes 2 --config act.yaml
    srun --ntasks-per-node=1 getiaction-launch node pusht_act_v1/version_0
    """
    from getiaction_launch.launch.cluster import cluster_of_job, find_cluster, read_cluster
    from getiaction_launch.launch.node import continue_here, start_here

    is_code_now = list(tokens[:2]) == ["--code", "now"]
    tokens = tokens[2:] if is_code_now else tokens
    trust = TRUST in tokens and len(tokens) == 2  # noqa: PLR2004 - the flag and a run
    tokens = [word for word in tokens if word != TRUST] if trust else tokens
    word = tokens[0] if len(tokens) == 1 else ""
    if word and not word.startswith("-") and not word.endswith((".py", ".yaml", ".yml")):
        found = find_run(word, default_root())
        name = os.environ.get(VARIABLE.format("CLUSTER")) or cluster_of_job()
        return continue_here(
            found,
            lambda: read_cluster(find_cluster(name)).backend,
            trust=trust,
            is_code_now=is_code_now,
        )
    if is_code_now:
        raise UsageError(
            "--code now needs a run to continue.", "getiaction-launch node --code now RUN"
        )
    # The scheduler has given this node its share of GPUs already.
    parser = parser_of(node, "node")
    _, plans, backend = prepare(tokens, parser, cluster_of_job(), lambda _: len(visible_gpus()))
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

    arguments = add_json(Parser.of(version)).parse(tokens)
    number = metadata.version("getiaction-launch")
    if arguments.json:
        show.print_json({"version": number})
    else:
        print("getiaction-launch", number)
    return 0
