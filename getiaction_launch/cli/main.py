"""Entry of the command line: which verb a command is, and its exit code.

Torch, Lightning and Ray are never imported here.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence

from getiaction_launch.cli import verbs
from getiaction_launch.cli.grammar import launch_parser
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.show import say
from getiaction_launch.errors import LaunchError, UsageError, disk_errors, nearest_first

EXIT_INTERRUPTED = 130
VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": verbs.run,
    "check": verbs.check,
    "ls": verbs.ls,
    "status": verbs.status,
    "logs": verbs.logs,
    "cancel": verbs.cancel,
    "resume": verbs.resume,
    "pull": verbs.pull,
    "node": verbs.node,
    "clusters": verbs.clusters,
    "version": verbs.version,
}
ALIASES = {"--version": "version", "list": "ls", "ps": "ls", "stop": "cancel"}
ABOUT = """\
Launch a training spec or script as multi-node DDP, on this machine or on a cluster.

getiaction-launch --nodes 2 --config act.yaml --trainer.max_epochs=200
getiaction-launch --cluster slurm --nodes 2 --gpus-per-node 4 train.py --lr 3e-4
"""
EPILOG = """\
--trainer.*, --model.*, --data.* and the other keys of a spec override it, as in `getiaction fit`.

verbs, each with its own --help:
{verbs}

A run is named by its directory or URL, by name/version_N, or by @last.
A value comes from the first of these that has it: the command line, GETIACTION_LAUNCH_* variables,
the spec, the cluster config, the defaults.
Exit codes: 0 ok, 2 bad input, 3 cannot run here, 4 refused by the scheduler, 5 unreachable; with
--wait or --follow: 10 failed, 11 cancelled, 12 time limit, 13 out of memory, 14 node failure,
130 interrupted (the run itself continues).
"""
SHORT_EPILOG = """\
verbs: {verbs}
All flags: getiaction-launch --help; of a verb: getiaction-launch VERB --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``getiaction-launch``; returns the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens and not any(word.endswith(".py") for word in tokens)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # logs hold what a terminal may not
    try:
        with disk_errors():
            return _run_verb([word for word in tokens if word != "--debug"] if debug else tokens)
    except LaunchError as error:
        if debug:
            raise
        say(f"error: {error}")
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
    if not tokens:
        _parser().show_help(sys.stderr, short=True)
        return UsageError.exit_code
    if not word.startswith("-") and not word.endswith(".py") and word != "fit":
        raise UsageError(
            f"{word!r} is neither a verb nor a script: a script's name ends in .py.",
            nearest_first(word, VERBS),
        )
    return verbs.launch(tokens, _parser())


def _parser() -> Parser:
    """What parses a command without a verb."""
    width = max(map(len, VERBS))
    abouts = {name: (verb.__doc__ or "").partition("\n")[0] for name, verb in VERBS.items()}
    lines = (f"  {name:{width}}  {about}" for name, about in abouts.items())
    epilog = EPILOG.format(verbs="\n".join(lines))
    return launch_parser(
        "getiaction-launch", ABOUT, epilog, SHORT_EPILOG.format(verbs=", ".join(VERBS))
    )
