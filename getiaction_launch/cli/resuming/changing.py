"""The flags of ``resume`` and ``rerun``: what shall be different from before."""

import argparse
from collections.abc import Sequence

from getiaction_launch.cli.grammar import (
    RESTARTS,
    add_actions,
    add_flag,
    add_notify,
    add_settings,
    default_root,
    read_number,
    read_settings,
)
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.typed.gpus import read_gpus
from getiaction_launch.cli.typed.words import split_tokens
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.resuming.change import Changes
from getiaction_launch.ssh.message import FOUND_ON


def add_changes(parser: Parser, title: str) -> Parser:
    """Add the flags that change where and how a run trains.

    Args:
        parser: The parser to add them to.
        title: The title of the group of flags that say where.
    """
    add = parser.add_argument_group(title).add_argument
    add("--cluster", metavar="NAME", help="Cluster config, by name or path (default: as before)")
    add(FOUND_ON, help=argparse.SUPPRESS)
    nodes = "Number of nodes; with another number of workers, the order of samples differs"
    add("-N", "--nodes", type=read_number, metavar="N", help=nodes)
    add("--gpus-per-node", metavar="N", help="GPUs of each node, 0 for none")
    workers = "Workers of each node, for a script that trains on CPUs"
    add("--workers-per-node", type=read_number, metavar="N", help=workers)
    code = "Train a copy of the files as they are now, instead of the copy made at submission"
    add("--code", choices=["now"], help=code)
    add = parser.add_argument_group("what to do").add_argument
    add_actions(add)
    add_notify(add)
    add = parser.add_argument_group("restarts").add_argument
    for flag, text in RESTARTS.values():
        add_flag(add, flag).help = text
    add_settings(parser, None)
    return parser


def parse_changes(
    parser: Parser, tokens: Sequence[str], verb: str
) -> tuple[argparse.Namespace, Changes]:
    """Parse a command with the flags of :func:`add_changes`.

    Args:
        parser: The parser of the verb.
        tokens: The words of the command line behind the verb.
        verb: The verb, for error messages.
    """
    own, overrides, script = split_tokens(tokens, parser.value_flags)
    if script:
        raise UsageError(
            f"{script[0]!r}: {verb} takes no script and no arguments of one; a run keeps its own.",
            "To change them, start another run: getiaction-launch train.py ...",
        )
    arguments = parser.parse(own)
    if arguments.json and arguments.parsable:
        raise UsageError(
            "--json and --parsable both say what to print.", "--json has the directories, too."
        )
    kind, gpus = read_gpus(arguments.gpus_per_node)
    del kind  # one of the settings
    return arguments, Changes(
        cluster=arguments.cluster,
        nodes=arguments.nodes,
        gpus_per_node=gpus,
        workers_per_node=arguments.workers_per_node,
        overrides=overrides,
        settings=read_settings(arguments),
        is_code_now=arguments.code == "now",
    )


def roots_of(arguments: argparse.Namespace) -> list[str]:
    """Return where to look for the run: also where those of the cluster are that it shall go to."""
    if arguments.root:
        return [arguments.root]
    named = [name for name in (arguments.found_on, arguments.cluster) if name]
    return [default_root(), *map(default_root, named)]
