"""What a Ray cluster has, compared with what a run asks for, before its job waits for ever."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from getiaction_launch.errors import CheckError, counted, nearest_first
from getiaction_launch.storage.strict_json import dumps

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SECONDS = 10
_MOST_NODES = 10_000
"""Ray leaves out the nodes beyond its default limit of 100, and does not say so."""
_OF_NO_TYPE = re.compile(r"node_[0-9a-f]+")
"""How Ray calls nodes that were started by hand, and not by an autoscaler."""
_UNIT = {"memory": 1 << 20}
_ENTRYPOINT = {
    "CPU": "entrypoint_num_cpus",
    "GPU": "entrypoint_num_gpus",
    "memory": "entrypoint_memory",
}
_FLAGS = {"CPU": "-c", "GPU": "--gpus-per-node", "memory": "--mem"}


def read_nodes(client: "JobSubmissionClient") -> list[Mapping[str, float]]:
    """Return the resources of each node of a cluster; nothing if it grows, or does not say.

    Args:
        client: A client of the cluster.
    """
    import requests
    from ray.util.state import list_nodes

    url = f"{client.get_address()}/api/cluster_status"
    try:
        said: Any = requests.get(url, timeout=SECONDS).json()
        report = said["data"]["clusterStatus"]["autoscalerReport"]
        kinds = [str(kind) for kind in (report["nodeTypeMapping"] or {}).values()]
        nodes = list_nodes(client.get_address(), limit=_MOST_NODES, timeout=SECONDS)
    except Exception:  # noqa: BLE001 - then the run may be submitted
        return []
    if not all(map(_OF_NO_TYPE.fullmatch, kinds)) or not kinds:
        return []  # an autoscaler may add what is missing
    return [node.resources_total or {} for node in nodes if node.state == "ALIVE"]


def compare(
    nodes: Sequence[Mapping[str, float]],
    bundle: Mapping[str, float],
    num_nodes: int,
    *,
    may_share: bool,
) -> None:
    """Check that a cluster of a fixed size has room for a run, once nothing else runs there.

    Args:
        nodes: The resources of each node of the cluster.
        bundle: The resources of each node of the run, by Ray's names.
        num_nodes: How many nodes the run has.
        may_share: Whether several nodes of the run may be placed on one node of the cluster.

    Raises:
        CheckError: If the run would wait for ever; names the flag and what there is.
    """
    # CPUs come last: a run has as many as its GPUs have workers, unless -c says otherwise.
    for name, amount in sorted(bundle.items(), key=lambda item: item[0] == "CPU"):
        most = max(node.get(name, 0) for node in nodes)
        if most >= amount:
            continue
        flag = _FLAGS.get(name, f"resources.{name}")
        unit = _UNIT.get(name, 1)
        what = f"{flag} asks each node for {amount / unit:g} {'MB of ' if unit > 1 else ''}{name}"
        if most > 0:
            limit = f"{most // unit:g}"
            raise CheckError(
                f"{what}, and no node of this cluster has more than {limit}.",
                f"Ask for less: {flag} {limit}",
            )
        known = sorted({each for node in nodes for each in node if not each.startswith("node:")})
        fix = nearest_first(name, known)
        if name == "GPU":
            fix = "--gpus-per-node 0, or name another cluster: --address http://HEAD:8265"
        raise CheckError(f"{what}, and no node of this cluster has any.", fix)
    rooms = [_room(node, bundle) for node in nodes]
    room = sum(rooms) if may_share else sum(1 for each in rooms if each)
    if room < num_nodes:
        each = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
        raise CheckError(
            f"--nodes {num_nodes}: this cluster has room for {counted(room, 'node')} with {each} "
            "each, even when nothing else runs there.",
            f"--nodes {room}" if room else "Ask for less on each node: -c, --gpus-per-node, --mem",
        )


def compare_entrypoint(nodes: Sequence[Mapping[str, float]], options: Mapping[str, Any]) -> None:
    """Check that one node of a cluster of a fixed size has what the run's driver asks for.

    Args:
        nodes: The resources of each node of the cluster.
        options: The options of ``--ray``, of which those of the entrypoint count.

    Raises:
        CheckError: If the driver would wait for ever; names the option and what there is.
    """
    named = options.get("entrypoint_resources") or {}
    asked = {
        f"entrypoint_resources={dumps({name: amount})}": (name, amount)
        for name, amount in named.items()
    }
    for name, option in _ENTRYPOINT.items():
        if options.get(option):
            asked[f"{option}={options[option]:g}"] = (name, options[option])
    for words, (name, amount) in asked.items():
        most = max(node.get(name, 0) for node in nodes)
        if amount > most:
            has = f"more than {most:g}" if most > 0 else "any"
            raise CheckError(
                f"--ray {shlex.quote(words)} asks for {amount:g} {name} for the run's driver, and "
                f"no node of this cluster has {has}.",
                "Leave it out: the driver only starts the workers, and needs none by default",
            )
    if not any(
        all(node.get(name, 0) >= amount for name, amount in asked.values()) for node in nodes
    ):
        raise CheckError(
            f"--ray {' --ray '.join(map(shlex.quote, asked))}: no node of this cluster has all of "
            "that for the run's driver.",
            "Leave out one of them: the driver only starts the workers, and needs none by default",
        )


def _room(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) // amount) for name, amount in bundle.items() if amount)
