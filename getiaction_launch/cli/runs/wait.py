"""The verb ``wait``: stays until runs have ended."""

from collections.abc import Sequence

from getiaction_launch.cli import follow
from getiaction_launch.cli.grammar import add_json, parse_runs, runs_parser


def wait(tokens: Sequence[str]) -> int:
    """Wait until runs have ended, show their progress, and exit with their result.

    getiaction-launch wait @last
    getiaction-launch wait sweep-1a2b3c4d pusht_act_v1/version_0
    """
    parser = add_json(runs_parser(wait, nargs="+"))
    parser.epilog = (
        "The exit code is that of --wait: 0 if training finished, 10 failed, 11 cancelled,\n"
        "12 time limit, 13 out of memory, 14 node failure; of several runs, the largest.\n"
        "Ctrl-C leaves the runs alone."
    )
    arguments = parse_runs(parser, tokens)
    statuses = follow.stay(arguments.runs)
    return follow.print_result(statuses, as_json=arguments.json, is_list=len(statuses) > 1)
