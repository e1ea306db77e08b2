"""The command line: words to and from the user. It decides nothing.

Plain flags belong to the launcher, dotted ones to the spec, and everything after a script's path
to the script. Torch, Lightning and Ray are never imported here.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from getiaction_launch import console, launch
from getiaction_launch.backend import JobState
from getiaction_launch.errors import LaunchError, UsageError, nearest_first
from getiaction_launch.logs import log_files, read_lines
from getiaction_launch.plan import DEFAULT_ROOT
from getiaction_launch.run import SCHEMA_VERSION, Run, find_run, list_runs
from getiaction_launch.spec import SECTIONS

EXIT_CODES = {JobState.SUCCEEDED: 0, JobState.CANCELLED: 11}
EXIT_FAILED = 10
EXIT_INTERRUPTED = 130
ALIASES = {"list": "ls", "ps": "ls", "stop": "cancel"}

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
  clusters  list the clusters that --cluster can name

A run is named by its directory, by name/version_N, or by @last.
exit codes: 0 ok, 2 bad input, 3 cannot run here, 5 unreachable; with --wait or --follow:
10 failed, 11 cancelled, 130 interrupted (the run goes on).
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's own
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=raw, **kwargs)
        self.add_argument("--debug", action="store_true", help="show tracebacks of errors")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", f"See {self.prog} --help")

    def parse(self, tokens: Sequence[str]) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(tokens)
        if unknown:
            flags = [option for option in self._option_string_actions if option.startswith("--")]
            raise UsageError(
                f"unknown argument {unknown[0]!r}.",
                nearest_first(unknown[0].partition("=")[0], flags),
            )
        return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``getiaction-launch``; returns the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    verb = ALIASES.get(tokens[0], tokens[0]) if tokens else ""
    command = VERBS.get(verb)
    try:
        return command(tokens[1:]) if command else run_or_check(tokens, only_check=False)
    except LaunchError as error:
        if "--debug" in tokens:
            raise
        console.say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `| head` has closed our output; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED


def split_tokens(tokens: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Tell the launcher's flags, the spec's overrides and the script with its arguments apart."""
    own: list[str] = []
    overrides: list[tuple[str, str]] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        flag, equals, value = token.partition("=")
        if not token.startswith("-") and token.endswith(".py"):
            return own, overrides, [token, *rest]
        if flag.startswith("--") and ("." in flag or flag[2:] in SECTIONS):
            if not equals and not rest:
                raise UsageError(f"{flag} needs a value.", f"{flag}=VALUE")
            overrides.append((flag[2:], value if equals else rest.pop(0)))
        else:
            own.append(token)
    return own, overrides, []


def run_or_check(tokens: Sequence[str], *, only_check: bool) -> int:
    """``getiaction-launch [run] ...`` and ``getiaction-launch check ...``."""
    parser = _Parser(prog="getiaction-launch", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--config", action="append", default=[], metavar="YAML", help="the spec; may be repeated")
    add("--cluster", metavar="NAME", help="a cluster config's name or path (default: local)")
    add("-N", "--nodes", type=int, metavar="N", help="sets trainer.num_nodes")
    add("--gpus-per-node", type=int, metavar="N", help="sets trainer.devices on GPUs; 0: CPU")
    add("--workers-per-node", type=int, metavar="N", help="for a script on CPU")
    add("--name", help="the run's name: sets trainer.experiment_name")
    add("--storage-root", metavar="DIR", help="where a relative default_root_dir lies")
    add("--dry-run", "--dryrun", action="store_true", help="print the plan; start nothing")
    add("--wait", action="store_true", help="stay until the run has ended")
    add("--follow", action="store_true", help="stay and print its logs")
    add("--parsable", action="store_true", help="print only the run's name")
    add("--json", action="store_true", help="print JSON")
    own, overrides, script = split_tokens(tokens)
    words = [token for token in own if token in ("run", "fit")]
    arguments = parser.parse([token for token in own if token not in words])
    _read_environment(arguments, [key for key, _ in overrides])
    plan, backend = launch.prepare(
        config=arguments.config,
        overrides=overrides,
        script=script,
        cluster=arguments.cluster or "local",
        nodes=arguments.nodes,
        gpus_per_node=arguments.gpus_per_node,
        workers_per_node=arguments.workers_per_node,
        name=arguments.name,
        storage_root=arguments.storage_root,
    )
    if only_check:
        launch.check(plan, backend, also_spec=True)
        console.say("ok: this run could start.")
        return 0
    if arguments.dry_run:
        launch.check(plan, backend, also_spec=True)
        commands = backend.describe(plan)
        if arguments.json:
            _print_json({"plan": plan.to_json(), "commands": commands})
        else:
            print(console.plan_text(plan, commands))
        return 0
    if sys.stderr.isatty():
        console.say("checking and starting ...")  # seconds, in which torch is imported
    run = launch.submit(plan, backend)
    if arguments.wait or arguments.follow:
        console.say(console.next_commands(run))
        return _stay(run, follow=arguments.follow, as_json=arguments.json)
    status = launch.read_status(run)
    if arguments.json:
        _print_json(_as_json(status))
    else:
        print(run.name if arguments.parsable else console.next_commands(run))
    if status.state.is_over and status.state is not JobState.SUCCEEDED:
        console.say(console.summary(status))
        return EXIT_CODES.get(status.state, EXIT_FAILED)
    return 0


def _read_environment(arguments: argparse.Namespace, overridden: Sequence[str]) -> None:
    """``GETIACTION_LAUNCH_*`` stands in for a flag that was not given."""
    sets = {"nodes": "trainer.num_nodes", "gpus_per_node": "trainer.devices"}
    for flag in ("cluster", "nodes", "gpus_per_node", "storage_root"):
        name = f"GETIACTION_LAUNCH_{flag.upper()}"
        value = os.environ.get(name)
        if value is None or getattr(arguments, flag) is not None or sets.get(flag) in overridden:
            continue
        if flag in sets and not value.isdecimal():
            raise UsageError(f"{name}={value!r} is no number.", f"unset {name}")
        setattr(arguments, flag, int(value) if flag in sets else value)


def _stay(run: Run, *, follow: bool, as_json: bool) -> int:
    try:
        if follow:
            _print_logs(run, None, follow=True)
        status = launch.wait(run, console.Watch())
    except KeyboardInterrupt:
        console.say(f"\nThe run goes on. To end it: getiaction-launch cancel {run.directory}")
        return EXIT_INTERRUPTED
    if as_json:
        _print_json(_as_json(status))
    else:
        print(console.summary(status))
    return EXIT_CODES.get(status.state, EXIT_FAILED)


def show_list(tokens: Sequence[str]) -> int:
    """``getiaction-launch ls [ROOT]``."""
    parser = _Parser(prog="getiaction-launch ls", description="List runs, the latest first.")
    parser.add_argument("root", nargs="?", help="where to look (default: ./experiments)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    runs = list_runs(arguments.root or _default_root())
    statuses = [launch.read_status(run) for run in runs]
    if arguments.json:
        _print_json({"runs": [_as_json(status) for status in statuses]})
        return 0
    rows = [("RUN", "STATE", "STEP", "LOSS", "AGE")]
    for status in statuses:
        age = time.time() - (status.run.launch_directory / "plan.json").stat().st_mtime
        step = str(status.progress.get("step", "-"))
        loss = console.final_loss(status.progress).split("  ")[0]
        rows.append((status.run.name, status.state.value, step, loss, f"{age / 60:.0f} min"))
    print(console.table(rows))
    return 0


def _parse_run(verb: str, description: str, tokens: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"getiaction-launch {verb}", description=description)
    parser.add_argument("run", help="its directory, name/version_N, or @last")
    parser.add_argument("--root", help="where named runs lie (default: ./experiments)")
    if verb == "logs":
        parser.add_argument("-f", "--follow", action="store_true", help="until the run ends")
        parser.add_argument("--rank", type=int, help="only this worker's")
    else:
        parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    arguments.run = find_run(arguments.run, arguments.root or _default_root())
    return arguments


def show_status(tokens: Sequence[str]) -> int:
    """``getiaction-launch status RUN``."""
    arguments = _parse_run("status", "Show where a run stands.", tokens)
    status = launch.read_status(arguments.run)
    if arguments.json:
        _print_json(_as_json(status))
    elif status.state.is_over:
        print(console.summary(status))
    else:
        place = console.short(status.run.directory)
        state = (status.state.value, console.phase(status))
        print(console.table([("run", status.run.name), ("directory", place), state]))
    return 0


def show_logs(tokens: Sequence[str]) -> int:
    """``getiaction-launch logs [-f] [--rank N] RUN``."""
    arguments = _parse_run("logs", "Print a run's logs.", tokens)
    _print_logs(arguments.run, arguments.rank, follow=arguments.follow)
    return 0


def _print_logs(run: Run, rank: int | None, *, follow: bool) -> None:
    files = log_files(run, rank)
    for name, line in read_lines(
        files, lambda: not follow or launch.read_status(run).state.is_over
    ):
        print(f"[{name}] {line}" if len(files) > 1 else line, flush=follow)


def cancel(tokens: Sequence[str]) -> int:
    """``getiaction-launch cancel RUN``."""
    arguments = _parse_run("cancel", "End a run on all its nodes.", tokens)
    status = launch.cancel(arguments.run)
    if arguments.json:
        _print_json(_as_json(status))
    else:
        print(f"run {status.run.name} {status.state.value}")
    return 0


def show_clusters(tokens: Sequence[str]) -> int:
    """``getiaction-launch clusters``."""
    from getiaction_launch.cluster import list_clusters

    parser = _Parser(prog="getiaction-launch clusters", description="List the cluster configs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse(tokens)
    clusters = {name: console.short(path) for name, path in list_clusters().items()}
    if arguments.json:
        _print_json({"clusters": clusters})
    else:
        print(console.table([("CLUSTER", "CONFIG"), *clusters.items()]))
    return 0


def _default_root() -> str:
    return str(Path(os.environ.get("GETIACTION_LAUNCH_STORAGE_ROOT", ""), DEFAULT_ROOT))


def _as_json(status: launch.RunStatus) -> dict[str, Any]:
    return {
        "run": status.run.name,
        "directory": str(status.run.directory),
        "state": status.state.value,
        "reason": status.reason,
        "progress": {k: v for k, v in status.progress.items() if k != "schema_version"},
    }


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2))


VERBS = {
    "run": lambda tokens: run_or_check(tokens, only_check=False),
    "check": lambda tokens: run_or_check(tokens, only_check=True),
    "ls": show_list,
    "status": show_status,
    "logs": show_logs,
    "cancel": cancel,
    "clusters": show_clusters,
}

if __name__ == "__main__":
    sys.exit(main())
