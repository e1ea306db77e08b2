"""The verb that runs a command next to the training of a run."""

import shlex
from collections.abc import Sequence

from getiaction_launch.cli.grammar import add_trust, parse_runs, runs_parser
from getiaction_launch.cli.typed.words import before_mark
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.running.execute import execute


def exec(tokens: Sequence[str]) -> int:  # noqa: A001 - the name of the verb
    """Run a command next to a running run, on the node of rank 0 or of another rank.

    getiaction-launch exec @last -- nvidia-smi
    getiaction-launch exec --rank 3 pusht_act_v1/version_0 -- df -h /tmp
    """
    own = before_mark(tokens)
    words = list(tokens[len(own) + 1 :])
    parser = add_trust(runs_parser(exec))
    parser.usage = "getiaction-launch exec [--rank N] RUN -- COMMAND [arguments]"
    help_ = "Rank of the worker whose node and variables the command gets (default: 0)"
    parser.add_argument("--rank", type=int, metavar="N", default=0, help=help_)
    if own[1:] and own == [*tokens] and not {"-h", "--help"}.intersection(own):
        arguments, unknown = parser.parse_known_args(own)
        if unknown and not unknown[0].startswith("-"):
            raise UsageError(
                "the command must stand behind --.",
                f"getiaction-launch exec {shlex.join([*arguments.runs, '--', *unknown])}",
            )
    arguments = parse_runs(parser, own)
    if not words:
        fix = f"getiaction-launch exec {shlex.join(own)} -- nvidia-smi"
        raise UsageError("there is no command to run.", fix)
    return execute(arguments.run, words, rank=arguments.rank, trust=arguments.trust)
