"""The verb ``tensorboard``: the curves of a run in a browser of this machine."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from getiaction_launch.cli.grammar import parse_runs, read_number, runs_parser


def tensorboard(tokens: Sequence[str]) -> int:
    """Show the curves of a run in TensorBoard, until Ctrl-C.

    getiaction-launch tensorboard @last
    getiaction-launch tensorboard --port 6007 pusht_act_v1/version_0
    """
    parser = runs_parser(tensorboard)
    port = "Port of this machine to listen on (default: 6006, or the next one that is free)"
    parser.add_argument("--port", type=read_number, metavar="N", help=port)
    arguments = parse_runs(parser, tokens)
    with serving(str(arguments.run.directory), arguments.port) as has_ended:
        while not has_ended(None):
            pass
    return 0


@contextlib.contextmanager
def serving(directory: str, port: int | None) -> Iterator[Callable[[float | None], bool]]:
    """Have TensorBoard serve a directory to this machine while the context lasts.

    Args:
        directory: Path or URL of the directory that has the curves.
        port: The port to listen on; None for TensorBoard's own choice.

    Yields:
        A function that waits for some seconds, or without a limit, and returns whether TensorBoard
        has ended.
    """
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", directory]
    process = subprocess.Popen([*words, *([f"--port={port}"] if port else [])])

    def has_ended(seconds: float | None) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None

    try:
        yield has_ended
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
