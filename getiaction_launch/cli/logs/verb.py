"""The verb ``logs``: which lines of a run's logs it means."""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from getiaction_launch.backends.flag import read_count
from getiaction_launch.cli import show
from getiaction_launch.cli.follow import Selection, print_logs
from getiaction_launch.cli.grammar import parse_runs, runs_parser
from getiaction_launch.errors import UsageError
from getiaction_launch.run.attempt import attempts_of
from getiaction_launch.run.records import AttemptRecord

ALL = "all"
_UNITS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(d|h|min|m|s)")


def logs(tokens: Sequence[str]) -> int:
    """Print the logs of a run.

    getiaction-launch logs -f @last
    getiaction-launch logs -n 100 --grep 'loss=nan' --since 10m --attempt all @last
    """
    parser = runs_parser(logs)
    follow = "Print new lines until the run has ended"
    parser.add_argument("-f", "--follow", action="store_true", help=follow)
    rank = "Print the log of this worker only"
    parser.add_argument("--rank", type=int, metavar="N", help=rank)
    lines = "Print only the last N lines of each log, of those that match; with -f, new ones follow"
    count = partial(read_count, least=0)
    parser.add_argument("-n", "--lines", "--tail", type=count, metavar="N", help=lines)
    grep = "Print only lines that match this regular expression of Python; '(?i)nan': in any case"
    parser.add_argument("--grep", metavar="PATTERN", help=grep)
    since = "Print only lines since then: 10m, 1h30m, 2d, or a time such as 2026-11-29T16:00"
    parser.add_argument("--since", metavar="TIME", help=since)
    number = "Print the logs of this attempt, or of all (default: the newest)"
    parser.add_argument("--attempt", metavar="N|all", help=number)
    arguments = parse_runs(parser, tokens)
    chosen = Selection(
        arguments.rank,
        arguments.lines,
        None if arguments.since is None else read_since(arguments.since, time.time()),
        None if arguments.grep is None else _read_pattern(arguments.grep),
        names_attempt=arguments.attempt == ALL,
    )
    attempts = attempts_of(arguments.run)
    numbers = _read_attempts(arguments.attempt, max(len(attempts), 1))
    for attempt in numbers[:-1]:
        if not _is_before(attempts[attempt], chosen.since):
            print_logs(arguments.run, attempt, None, chosen)
    last = numbers[-1]
    if attempts[last:] and _begins_after(attempts[last], chosen.since):
        chosen = replace(chosen, since=None)
    watch = show.Watch() if arguments.follow else None
    return print_logs(arguments.run, last, watch, chosen)


def _is_before(attempt: AttemptRecord, since: float | None) -> bool:
    return since is not None and attempt.ended_at is not None and attempt.ended_at < since


def _begins_after(attempt: AttemptRecord, since: float | None) -> bool:
    return since is not None and attempt.started_at >= since


def _read_attempts(text: str | None, count: int) -> list[int]:
    """Read a number, or ``all``; the newest of ``count`` attempts if nothing was typed."""
    if text is None:
        return [count - 1]
    if text == ALL:
        return list(range(count))
    if not text.isdecimal() or int(text) >= count:
        raise UsageError(
            f"--attempt {text}: there is no such attempt.",
            f"Attempts of this run go from 0 to {count - 1}; --attempt all has all of them.",
        )
    return [int(text)]


def _read_pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--grep {text!r}: invalid regular expression: {error}.",
            f"To look for this very text: --grep {shlex.quote(re.escape(text))}",
        ) from error


def read_since(text: str, now: float) -> float:
    """Read a duration before now, or a time; returns seconds since the epoch.

    Args:
        text: What was typed, such as ``10m`` or ``2026-11-29T16:00``.
        now: The time now, in seconds since the epoch.

    Raises:
        UsageError: If it is neither.
    """
    parts = _PART.findall(text)
    if parts and "".join(f"{number}{unit}" for number, unit in parts) == text.replace(" ", ""):
        return now - sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()  # local if no zone
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--since {text}: invalid time.",
            "Examples: 90s, 10m, 1h30m, 2d, 2026-11-29, 2026-11-29T16:00",
        ) from error
