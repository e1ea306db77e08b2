"""Stays with runs: what is printed until they end, and with which exit code."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from getiaction_launch.cli import show
from getiaction_launch.cli.listing.table import listing
from getiaction_launch.cli.runs.board import Board, total
from getiaction_launch.errors import UnreachableError
from getiaction_launch.launch import submit
from getiaction_launch.launch.listing.entry import entries_of
from getiaction_launch.launch.logs.lines import log_files, read_lines
from getiaction_launch.launch.status import LOST_SECONDS, Watched
from getiaction_launch.plan.text import clean_line
from getiaction_launch.run.attempt import last_attempt
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

EXIT_CANCELLED = 11
EXIT_CODES = {Cause.TIME_LIMIT: 12, Cause.OUT_OF_MEMORY: 13, Cause.NODE_FAILURE: 14}
EXIT_FAILED = 10


def report(arguments: argparse.Namespace, runs: list[Run]) -> int:
    """Say which runs were started, and stay until they have ended if --wait or --follow asks.

    Args:
        arguments: The parsed flags of the command line.
        runs: The runs that were started, one or those of a sweep.

    Returns:
        The exit code.
    """
    if arguments.parsable:
        print(*(run.directory for run in runs), sep="\n", flush=True)
    stays = arguments.wait or arguments.follow
    if stays:
        show.say(show.next_commands(runs))
    if arguments.follow:
        logs = sys.stderr if arguments.json or arguments.parsable else sys.stdout
        statuses = [_follow(run, logs) for run in runs]
    else:
        statuses = stay(runs) if stays else submit.read_statuses(runs)
    if arguments.parsable:
        return max(map(_exit_code, statuses))
    if stays or arguments.json or (len(runs) == 1 and statuses[0].state.is_over):
        return print_result(statuses, as_json=arguments.json, is_list=bool(arguments.sweep))
    print(show.next_commands(runs))
    return max(map(_exit_code, statuses))


def stay(runs: Sequence[Run]) -> list[submit.RunStatus]:
    """Wait until all runs have ended, and show their progress meanwhile."""
    if len(runs) == 1:
        one = show.Watch()
        with _leaving_alone(runs, one):
            return [submit.wait(runs[0], one)]
    board = Board()
    with _leaving_alone(runs, board):
        return submit.wait_for(runs, board)


def print_result(statuses: Sequence[submit.RunStatus], *, as_json: bool, is_list: bool) -> int:
    """Print how runs have ended, or where they stand; return the exit code.

    Args:
        statuses: The status of each run, as it was just read.
        as_json: Whether to print one JSON document, for machines.
        is_list: Whether that document is a list of runs, also if it is only one.
    """
    if as_json:
        listed = [show.as_json(status) for status in statuses]
        show.print_json({"runs": listed} if is_list else listed[0])
    elif len(statuses) > 1:
        print(f"{listing(entries_of(statuses))}\n{total(statuses)}")
        for status in statuses:
            if status.state.is_over and status.state is not JobState.SUCCEEDED:
                show.say(f"why: getiaction-launch why {show.short(status.run.directory)}")
    elif statuses[0].state.is_over:
        print(show.summary(statuses[0]))
    else:
        print(clean_line(f"run {statuses[0].run.name} {show.phase(statuses[0])}"))
    return max(map(_exit_code, statuses))


def _exit_code(status: submit.RunStatus) -> int:
    if status.state is JobState.UNKNOWN:
        return UnreachableError.exit_code
    if not status.state.is_over or status.state is JobState.SUCCEEDED:
        return 0
    if status.state is JobState.CANCELLED:
        return EXIT_CANCELLED
    return EXIT_CODES.get(status.cause, EXIT_FAILED) if status.cause else EXIT_FAILED


def _follow(run: Run, logs: TextIO) -> submit.RunStatus:
    watch = show.Watch()
    with _leaving_alone([run], watch):
        with contextlib.redirect_stdout(logs):
            print_logs(run, last_attempt(run), watch, Selection())
        return submit.wait(run, watch)


@contextlib.contextmanager
def _leaving_alone(runs: Sequence[Run], watch: show.Watch | Board) -> Iterator[None]:
    """Close what shows the runs' progress; after Ctrl-C, say that they continue."""
    try:
        yield
    except KeyboardInterrupt:
        watch.close()
        what = "The run continues. To end it" if len(runs) == 1 else "All continue. To end them"
        show.say(f"\n{what}: getiaction-launch cancel {show.names(runs)}")
        raise
    finally:
        watch.close()


@dataclass(frozen=True)
class Selection:
    """Which lines of a run's logs are printed.

    Attributes:
        rank: Rank of the only worker whose log is wanted; None for all logs.
        last: How many lines of each log to print, the last ones; None for all.
        since: Time from which on lines are printed, in seconds since the epoch; None for all.
        pattern: What a line must contain; None for all lines.
        names_attempt: Whether to write the attempt before each line.
    """

    rank: int | None = None
    last: int | None = None
    since: float | None = None
    pattern: re.Pattern[str] | None = None
    names_attempt: bool = False


def print_logs(run: Run, attempt: int, watch: show.Watch | None, chosen: Selection) -> int:
    """Print an attempt's logs; with ``watch``, also later attempts', until the run has ended.

    Args:
        run: The run that wrote the logs.
        attempt: Number of the attempt, from 0.
        watch: Shows the run's progress while there is nothing to read; None not to follow.
        chosen: Which lines to print; of later attempts, all since their beginning.
    """
    lost_at: float | None = None
    watched = Watched(run)

    def is_over() -> bool:
        nonlocal lost_at
        status = watched.read_status()
        if status.state is not JobState.RUNNING and watch:
            watch(status)  # why there is nothing to read
        if status.state is not JobState.UNKNOWN:
            lost_at = None
            return status.state.is_over
        lost_at = lost_at or time.monotonic()
        return time.monotonic() - lost_at > LOST_SECONDS

    while True:
        may_come = watch is not None and not is_over()
        files = log_files(run, chosen.rank, attempt, may_come=may_come)
        is_last = watch is None

        def has_ended(attempt: int = attempt) -> bool:
            nonlocal is_last
            is_last = is_last or is_over()
            return is_last or watched.newest_attempt > attempt

        lines = read_lines(files, has_ended, chosen.last, chosen.since, chosen.pattern)
        for name, line in lines:
            place = [clean_line(name)] if len(files) > 1 else []
            place = [f"attempt {attempt}", *place] if chosen.names_attempt else place
            prefix = f"[{', '.join(place)}] " if place else ""
            print(f"{prefix}{show.log_line(line)}", flush=watch is not None)
        if is_last:
            return UnreachableError.exit_code if lost_at else 0
        attempt, chosen = attempt + 1, replace(chosen, last=None, since=None)
        show.say(f"[attempt {attempt}]")
