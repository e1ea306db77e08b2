"""The command line's grammar: whose each word is, and which flags a launch has.

Plain flags belong to the launcher, dotted ones to the spec, and everything after a script's path
to the script.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from getiaction_launch.cli import settings
from getiaction_launch.errors import UsageError, nearest_first
from getiaction_launch.plan.spec import SECTIONS

DESCRIPTION = """\
Launch a training spec or script as multi-node DDP.

  getiaction-launch --nodes 2 --config act.yaml --trainer.max_epochs=200
  getiaction-launch --nodes 2 train.py --lr 3e-4
"""
EPILOG = """\
--trainer.*, --model.*, --data.* and the other keys of a spec override it, as in `getiaction fit`.

verbs (each has its own --help):
  check     say whether a run could start, and start nothing
  ls        list runs
  status    show one run
  logs      print or follow (-f) a run's logs
  cancel    end a run
  resume    go on with a run that has ended before its training had
  pull      copy a run, or one checkpoint of it, from remote storage
  node      one node's share of a run, inside the user's own batch script: srun ... node ...
  clusters  list the clusters that --cluster can name
  version   print the version (also: --version)

A run is named by its directory, by name/version_N, or by @last.
exit codes: 0 ok, 2 bad input, 3 cannot run here, 4 refused by the scheduler, 5 unreachable; with
--wait or --follow: 10 failed, 11 cancelled, 12 time limit, 13 out of memory, 14 node failure,
130 interrupted (the run goes on). --debug shows tracebacks of errors.
"""


class Parser(argparse.ArgumentParser):
    """One that raises UsageError, with the flags that were perhaps meant."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's own
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=raw, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        raise UsageError(f"{message}.", f"See {self.prog} --help")

    @property
    def value_flags(self) -> set[str]:
        """The flags that take a value."""
        options = self._option_string_actions.items()
        return {flag for flag, action in options if action.nargs != 0}

    def parse(self, tokens: Sequence[str]) -> argparse.Namespace:
        """Parse all of ``tokens``, or raise UsageError."""
        arguments, unknown = self.parse_known_args(tokens)
        if unknown:
            flags = [option for option in self._option_string_actions if option.startswith("--")]
            raise UsageError(
                f"unknown argument {unknown[0]!r}.",
                nearest_first(unknown[0].partition("=")[0], flags),
            )
        return arguments


def split_tokens(tokens: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Tell the launcher's flags, the spec's overrides and the script with its arguments apart."""
    value_flags = run_parser().value_flags
    own: list[str] = []
    overrides: list[tuple[str, str]] = []
    rest = list(tokens)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word == "--" or (not word.startswith("-") and word.endswith(".py")):
            return own, overrides, rest if word == "--" else [word, *rest]
        if not word.startswith("-") and word.endswith((".yaml", ".yml")):
            own += ["--config", word]
        elif flag.startswith("--") and ("." in flag or flag[2:].rstrip("+") in SECTIONS):
            if not equals and (not rest or rest[0].startswith("--")):
                raise UsageError(f"{flag} needs a value.", f"{flag}=VALUE")
            overrides.append((flag[2:], value if equals else rest.pop(0)))
        else:
            own.append(word)
            if word in value_flags and rest:
                own.append(rest.pop(0))
    return own, overrides, []


def run_parser() -> Parser:
    """The flags of a launch."""
    parser = Parser(prog="getiaction-launch", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--config", action="append", default=[], metavar="YAML", help="the spec; may be repeated")
    add("--cluster", metavar="NAME", help="a cluster config's name or path (default: local)")
    add("-N", "--nodes", type=int, metavar="N", help="sets trainer.num_nodes")
    gpus = "sets trainer.devices on GPUs; 0: CPU; a100:4 where SLURM knows types"
    add("--gpus-per-node", metavar="N", help=gpus)
    add("--workers-per-node", type=int, metavar="N", help="for a script on CPU")
    add("--name", help="the run's name: sets trainer.experiment_name")
    sweep = "a run for each value (key=A,B,C); may be repeated: for each combination"
    add("--sweep", action="append", default=[], metavar="KEY=A,B", help=sweep)
    add("--max-parallel", type=int, metavar="N", help="of a sweep: at most N runs at a time")
    add("--storage-root", metavar="DIR", help="directory or URL of a relative default_root_dir")
    add("--dry-run", "--dryrun", action="store_true", help="print the plan; start nothing")
    add("--wait", action="store_true", help="stay until the run has ended")
    add("--follow", action="store_true", help="stay and print its logs")
    add("--parsable", action="store_true", help="print only the run's directory")
    add("--json", action="store_true", help="print JSON")
    settings.add_flags(parser)
    return parser


def read_gpus(text: str | None) -> tuple[str | None, int | None]:
    """Read ``4`` or ``a100:4``."""
    if text is None:
        return None, None
    kind, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise UsageError(f"--gpus-per-node {text!r} is no number.", "--gpus-per-node 4 or a100:4")
    return kind or None, int(number)


def read_environment(arguments: argparse.Namespace, overridden: Sequence[str]) -> None:
    """``GETIACTION_LAUNCH_*`` stands in for a flag that was not given."""
    sets = {"nodes": "trainer.num_nodes", "gpus_per_node": "trainer.devices"}
    for flag in ("cluster", "nodes", "gpus_per_node", "storage_root"):
        name = f"GETIACTION_LAUNCH_{flag.upper()}"
        value = os.environ.get(name)
        if value is None or getattr(arguments, flag) is not None or sets.get(flag) in overridden:
            continue
        if flag == "nodes" and not value.isdecimal():
            raise UsageError(f"{name}={value!r} is no number.", f"unset {name}")
        setattr(arguments, flag, int(value) if flag == "nodes" else value)
