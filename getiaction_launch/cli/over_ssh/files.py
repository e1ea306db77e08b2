"""Files of a run on a cluster that is reached by ssh: ``pull``, and curves in ``tensorboard``."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import parse_runs, runs_parser
from getiaction_launch.cli.over_ssh.place import Place
from getiaction_launch.cli.runs.tensorboard import serving
from getiaction_launch.errors import CheckError, LaunchError, StorageError
from getiaction_launch.plan.plan import DEFAULT_ROOT
from getiaction_launch.ssh.files import Header, find_files, receive, send
from getiaction_launch.ssh.message import SEND
from getiaction_launch.storage.paths import is_remote, remove

PERIOD_SECONDS = 30
"""How often curves are copied while somebody looks at them."""
EVENTS = "events.out.tfevents"


def pull(place: Place, arguments: argparse.Namespace) -> int:
    """Copy a run, or one of its checkpoints, to this machine; returns the exit code."""
    partial, target = Path(), Path()

    def choose(header: Header) -> Path:
        nonlocal partial, target
        default = "." if header.name else str(Path(DEFAULT_ROOT, header.run))
        target = Path(arguments.directory or default) / header.name
        if os.path.lexists(target):
            fix = f"Choose another directory: getiaction-launch pull {' '.join(arguments.runs)} DIR"
            raise CheckError(f"{target} already exists.", fix)
        # A transfer that is interrupted must not leave what looks like the whole run.
        partial = target.with_name(f".{target.name}.partial")
        remove(partial)
        partial.mkdir(parents=True)
        return partial

    words = [*_named(arguments), *_option("--checkpoint", arguments.checkpoint)]
    with show.transfer(arguments.runs[0]) as watch:
        code, header = _fetch(place, words, choose, watch)
    if header is None:
        return code
    (partial / header.name).rename(target)
    remove(partial)
    if arguments.json:
        show.print_json({"path": str(target.absolute())})
    else:
        print(target)
    return code


def open_tensorboard(place: Place, arguments: argparse.Namespace) -> int:
    """Show curves on this machine, and copy what is new of them; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:

        def refresh() -> int:
            found = find_files(Path(folder))
            have = {path: Path(folder, path).stat().st_size for path in found}
            words = [*_named(arguments), "--events", f"--have={json.dumps(have, allow_nan=False)}"]
            return _fetch(place, words, lambda _: Path(folder), lambda *_: None)[0]

        if code := refresh():
            return code
        with serving(folder, arguments.port) as has_ended:
            while not has_ended(PERIOD_SECONDS):
                _try(refresh)
    return 0


def _try(refresh: Callable[[], int]) -> None:
    try:
        refresh()
    except LaunchError as error:  # such as a laptop that was asleep
        show.say(f"the curves could not be updated: {error.what}")


def send_files(tokens: Sequence[str]) -> int:
    """Send the files of a run to the machine that asks for them."""
    parser = runs_parser(send_files)
    parser.add_argument("--checkpoint")
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--have", type=json.loads, default={})
    arguments = parse_runs(parser, tokens)
    run = arguments.run
    if is_remote(run.directory):
        raise CheckError(
            f"run {run.name} is on remote storage, which this machine can read without ssh.",
            f"Leave out the cluster: getiaction-launch pull {run.directory}",
        )
    from getiaction_launch.mirror.pull import NOT_COPIED, find_checkpoint  # slow to import

    name, files = "", {path: run.directory / path for path in find_files(run.directory)}
    if arguments.checkpoint:
        found = find_checkpoint(run, arguments.checkpoint)
        name = found.name
        paths = find_files(found) if found.is_dir() else ["."]
        files = {os.path.normpath(Path(name, path)): found / path for path in paths}
    elif arguments.events:
        files = {path: at for path, at in files.items() if at.name.startswith(EVENTS)}
    else:
        files = {path: at for path, at in files.items() if not path.startswith(NOT_COPIED)}
    send(sys.stdout.buffer, run.name, name, files, arguments.have)
    sys.stdout.flush()
    return 0


def _named(arguments: argparse.Namespace) -> list[str]:
    return [SEND, *arguments.runs, *_option("--root", arguments.root)]


def _option(flag: str, value: str | None) -> list[str]:
    return [f"{flag}={value}"] if value else []


def _fetch(
    place: Place,
    words: Sequence[str],
    choose: Callable[[Header], Path],
    watch: Callable[[int, int], None],
) -> tuple[int, Header | None]:
    """Ask the login node for files, and write them while they arrive.

    Returns:
        The exit code, and what has arrived; None if nothing has.
    """
    reading, writing = os.pipe()

    def take() -> Header:
        with os.fdopen(reading, "rb") as stream:  # once it is closed, nothing more is sent
            return receive(stream, choose, watch)

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        try:
            with os.fdopen(writing, "wb") as output:
                code = place.run(words, output=output)
        except LaunchError:
            with contextlib.suppress(StorageError):  # as nothing has arrived
                taken.result()
            raise
        if code:
            # If this machine has refused what came, the other one has only failed to send the rest.
            with contextlib.suppress(StorageError):
                taken.result()
            return code, None
        return code, taken.result()
