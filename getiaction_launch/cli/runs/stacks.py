"""The verb that shows where each rank of a running run is."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_json, add_trust, parse_runs, runs_parser
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.running.stacks import ask_for_stacks
from getiaction_launch.plan.text import clean
from getiaction_launch.run.beats.oddness import find_odd, states_of
from getiaction_launch.run.beats.records import read_beats
from getiaction_launch.run.beats.stacks import as_text, grouped


def stacks(tokens: Sequence[str]) -> int:
    """Show the stacks of all ranks now, those that differ from the others first.

    getiaction-launch stacks @last
    getiaction-launch stacks --rank 3 --full pusht_act_v1/version_0
    """
    parser = add_trust(add_json(runs_parser(stacks)))
    rank = "Show only this worker's stacks"
    parser.add_argument("--rank", type=int, metavar="N", help=rank)
    full = "Show all threads and all their calls, not only the innermost ones of the main thread"
    parser.add_argument("--full", action="store_true", help=full)
    arguments = parse_runs(parser, tokens)
    run = arguments.run
    found = ask_for_stacks(run, trust=arguments.trust)
    nodes = found.nodes
    if arguments.rank is not None:
        named = (replace(n, ranks=[r for r in n.ranks if r.rank == arguments.rank]) for n in nodes)
        ranks = [rank.rank for node in nodes for rank in node.ranks]
        nodes = [node for node in named if node.ranks]
        if not nodes:
            raise UsageError(
                f"--rank {arguments.rank}: no such rank has answered.",
                f"Ranks that have: {', '.join(map(str, ranks)) or 'none'}",
            )
    odd = find_odd(states_of(read_beats(run, found.attempt), found.nodes))
    groups = grouped(nodes, odd.ranks)
    if arguments.json:
        show.print_json(
            {
                "attempt": found.attempt,
                "groups": [asdict(group) for group in groups],
                "odd_ranks": odd.ranks,
                "summary": odd.reason,
                "silent_nodes": found.silent,
            }
        )
        return 0
    print(clean(as_text(groups, is_full=arguments.full)))
    if arguments.rank is None:
        show.say(f"\n{odd.reason}")
    for node in found.silent:
        show.say(f"node {node} has not answered")
    return 0
