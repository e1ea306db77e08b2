"""Entry of the command line: which verb a command is, and its exit code.

Torch, Lightning and Ray are never imported here.
"""

import atexit
import gc
import io
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence

from getiaction_launch.cli import verbs
from getiaction_launch.cli.check import check
from getiaction_launch.cli.completing.verb import completion
from getiaction_launch.cli.drilling.verb import drill
from getiaction_launch.cli.grammar import launch_parser
from getiaction_launch.cli.launching import launch
from getiaction_launch.cli.listing.verb import ls
from getiaction_launch.cli.logs.verb import logs
from getiaction_launch.cli.over_ssh.command import answer, run_elsewhere
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.report import report
from getiaction_launch.cli.resuming.rerun import rerun
from getiaction_launch.cli.resuming.verb import resume
from getiaction_launch.cli.runs.compare import compare
from getiaction_launch.cli.runs.execute import exec  # noqa: A004 - the name of the verb
from getiaction_launch.cli.runs.rm import rm
from getiaction_launch.cli.runs.stacks import stacks
from getiaction_launch.cli.runs.tensorboard import tensorboard
from getiaction_launch.cli.runs.wait import wait
from getiaction_launch.cli.show import EXIT_INTERRUPTED, of_system, print_error, print_failure
from getiaction_launch.cli.typed.words import before_mark, before_program
from getiaction_launch.cli.why import why
from getiaction_launch.errors import (
    LaunchError,
    UsageError,
    disk_errors,
    nearest_first,
)
from getiaction_launch.plan.program import refuse_notebook
from getiaction_launch.ssh.message import VERB as OVER_SSH

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": verbs.run,
    "check": check,
    "drill": drill,
    "ls": ls,
    "status": verbs.status,
    "logs": logs,
    "why": why,
    "stacks": stacks,
    "exec": exec,
    "wait": wait,
    "cancel": verbs.cancel,
    "resume": resume,
    "rerun": rerun,
    "rm": rm,
    "pull": verbs.pull,
    "report": report,
    "tensorboard": tensorboard,
    "compare": compare,
    "node": verbs.node,
    "clusters": verbs.clusters,
    "completion": completion,
    "version": verbs.version,
}
LAUNCHING = {"run", "check", "drill", "node"}
ALIASES = {"--version": "version", "list": "ls", "ps": "ls", "stop": "cancel", "remove": "rm"}
ABOUT = """\
Launch a training spec or script as multi-node DDP, on this machine or on a cluster.

getiaction-launch --nodes 2 --config act.yaml --trainer.max_epochs=200
getiaction-launch --cluster slurm --nodes 2 --gpus-per-node 4 train.py --lr 3e-4
getiaction-launch --nodes 2 -m package.train --lr 3e-4
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
{verbs}
All flags: getiaction-launch --help; of a verb: getiaction-launch VERB --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``getiaction-launch``; returns the exit code."""
    # Else a command that has checked a spec looks for garbage in all of torch before it exits.
    atexit.register(gc.freeze)
    tokens = list(sys.argv[1:] if argv is None else argv)
    own = _own_words(tokens)
    debug = "--debug" in own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # logs hold what a terminal may not
    try:
        kept = [word for word in own if word != "--debug"]
        with disk_errors():
            return _run_verb([*kept, *tokens[len(own) :]])
    except LaunchError as error:
        if debug:
            raise
        return print_failure(error, as_json="--json" in own)
    except KeyboardInterrupt:
        if "--json" in own:
            print_error("interrupted", "", EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `| head` has closed our output; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED
    except OSError as error:  # a folder that may not be read, a disk that is full
        if debug:
            raise
        failure = of_system(error, "--debug shows where it was.")
        return print_failure(failure, as_json="--json" in own)


def _own_words(tokens: Sequence[str]) -> list[str]:
    """Return the words that are not a program's."""
    if tokens and ALIASES.get(tokens[0], tokens[0]) in VERBS.keys() - LAUNCHING:
        return before_mark(tokens)
    return before_program(tokens)


def _run_verb(tokens: list[str]) -> int:
    if not tokens:
        root_parser().show_help(sys.stderr, short=True)
        return UsageError.exit_code
    word, *others = tokens
    name = ALIASES.get(word, word)
    if word == OVER_SSH:
        return answer(others, main)
    if command := VERBS.get(name):
        code = run_elsewhere(name, command, others)
        return command(others) if code is None else code
    refuse_notebook(word, "getiaction-launch")
    if not word.startswith("-") and not word.endswith(".py") and word != "fit":
        raise UsageError(
            f"{word!r} is neither a verb nor a script: a script's name ends in .py.",
            f"{nearest_first(word, VERBS)} All verbs: getiaction-launch --help\n"
            f"If it is a command of this environment: getiaction-launch -- {shlex.join(tokens)}",
        )
    code = run_elsewhere("run", VERBS["run"], tokens)
    return launch(tokens, root_parser()) if code is None else code


def root_parser() -> Parser:
    """Return what parses a command without a verb."""
    width = max(map(len, VERBS))
    abouts = {name: (verb.__doc__ or "").partition("\n")[0] for name, verb in VERBS.items()}
    lines = (f"  {name:{width}}  {about}" for name, about in abouts.items())
    epilog = EPILOG.format(verbs="\n".join(lines))
    names = textwrap.fill(f"verbs: {' '.join(VERBS)}", 80, subsequent_indent="       ")
    return launch_parser("getiaction-launch", ABOUT, epilog, SHORT_EPILOG.format(verbs=names))
