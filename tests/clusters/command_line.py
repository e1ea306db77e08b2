"""Starts, uses and stops a cluster by hand: the verbs of ``python tests/clusters/slurm.py``."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clusters.cluster import Cluster


def main(kind: type[Cluster], reason: str | None) -> int:
    """Start, use and stop a cluster by hand; return the exit code of the command in it.

    Args:
        kind: The class of the cluster.
        reason: Why this machine cannot run one; None if it can.
    """
    chosen = vars(_parser(kind).parse_args())
    verb, directory, node, command = (
        chosen.pop(name, None) for name in ("verb", "directory", "node", "command")
    )
    if reason:
        sys.exit(reason)
    if verb == "run":
        with (
            tempfile.TemporaryDirectory(prefix="cluster_") as folder,
            kind(Path(folder), **_fields(chosen)) as cluster,
        ):
            return subprocess.run([*cluster.login, *command], check=False).returncode
    if verb == "up":
        directory.mkdir(parents=True, exist_ok=True)
        kind(directory, **_fields(chosen)).start(outlive_me=True)
        return 0
    cluster = kind.at(directory)
    if verb == "down":
        cluster.stop()
        return 0
    entered = cluster.inside(node) if node else cluster.login
    return subprocess.run([*entered, *(command or cluster.status)], check=False).returncode


def _parser(kind: type[Cluster]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=kind.__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "run", "login", "on", "status", "down"):
        arguments = verbs.add_parser(verb)
        if verb != "run":
            arguments.add_argument("directory", type=Path)
        if verb in ("up", "run"):
            nodes = {"dest": "num_nodes", "default": kind.num_nodes}
            arguments.add_argument("--nodes", type=int, **nodes)
            settings = {"dest": "settings", "metavar": "KEY=VALUE", "default": []}
            arguments.add_argument("--setting", action="append", **settings)
            kind.add_options(arguments)
        if verb == "on":
            arguments.add_argument("node")
        if verb in ("run", "login", "on"):
            arguments.add_argument("command", nargs="+")
    return parser


def _fields(chosen: dict[str, Any]) -> dict[str, Any]:
    settings = dict(setting.split("=", 1) for setting in chosen["settings"])
    return {**chosen, "settings": settings}
