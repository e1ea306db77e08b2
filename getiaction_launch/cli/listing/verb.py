"""The verb ``ls``: which runs it means, in which order, and what it says of them."""

from collections.abc import Sequence
from dataclasses import replace

from getiaction_launch.backends.flag import read_count
from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_cluster, add_json, default_root
from getiaction_launch.cli.listing.table import as_json, listing
from getiaction_launch.cli.parser import Parser
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.listing.below import OF_ROOT, Found, contents_of, runs_below
from getiaction_launch.launch.listing.entry import Entry, read_entries
from getiaction_launch.launch.listing.order import (
    AGE,
    KEYS,
    Order,
    is_lower,
    metric_of,
    points_of,
)
from getiaction_launch.launch.status import NOT_LAUNCHED
from getiaction_launch.plan.secrets import refuse_login
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import kind_of, open_path

ALL = "*"
STATES = (*(state.value for state in JobState), NOT_LAUNCHED)


def ls(tokens: Sequence[str]) -> int:
    """List runs below a directory or URL, the newest first, or the points of a sweep, best first.

    getiaction-launch ls --state running --sort val/loss --limit 20 --name 'act*'
    getiaction-launch ls sweep-1a2b3c4d
    """
    arguments = _parser().parse(tokens)
    root = arguments.root or default_root(arguments.cluster)
    for place in (root, arguments.place or ""):
        refuse_login(place)
    found, group = _find(arguments.place, root, arguments.name)
    states = _read_states(arguments.state)
    order = Order(arguments.sort or AGE, arguments.reverse, states, arguments.limit)
    entries, facts = _sweep(found, order, arguments.sort) if group else (order.read(found), {})
    if not entries:
        place = arguments.place if arguments.place and not group else root
        _say_none(place, arguments.name, states, len(found))
    if arguments.json:
        sweep = {"sweep": {"name": group, **facts}} if group else {}
        show.print_json({**sweep, "runs": [as_json(entry) for entry in entries]})
    elif entries:
        key = facts.get("metric") or order.key
        print(listing(entries, str(key), is_sweep=bool(group)))
    return 0


def _parser() -> Parser:
    parser = Parser.of(ls)
    place = "Directory or URL in which to look, or name of a sweep (default: ./experiments)"
    parser.add_argument("place", metavar="DIR", nargs="?", help=place)
    root = "Directory or URL in which to find a sweep by its name (default: ./experiments)"
    parser.add_argument("--root", metavar="DIR", help=root)
    name = "Only runs whose name matches, such as 'act*' or 'act*/version_0'; quote it"
    parser.add_argument("--name", metavar="PATTERN", default=ALL, help=name)
    state = f"Only runs in this state, or in one of several (A,B): {', '.join(STATES).lower()}"
    parser.add_argument("--state", metavar="STATE", action="append", default=[], help=state)
    sort = (
        f"Sort by {', '.join(KEYS)}, or by a metric such as val/loss, the best first "
        "(default: age, the newest first)"
    )
    parser.add_argument("--sort", metavar="KEY", help=sort)
    parser.add_argument("-r", "--reverse", action="store_true", help="Reverse the order")
    limit = "List at most the first N runs"
    parser.add_argument("-n", "--limit", type=read_count, metavar="N", help=limit)
    return add_json(add_cluster(parser))


def _read_states(words: Sequence[str]) -> list[str]:
    """Read the states that are typed in any case, each alone or several with commas."""
    states = [word.strip() for several in words for word in several.split(",")]
    for word in states:
        if word.upper().replace("-", "_") not in STATES:
            raise UsageError(
                f"--state {word}: there is no such state.", f"States: {', '.join(STATES).lower()}"
            )
    return [word.upper().replace("-", "_") for word in states]


def _find(named: str | None, root: str, pattern: str) -> tuple[list[Found], str]:
    """Find the runs in a place that a user has named, or those of a sweep, with its name."""
    if named is None:
        return runs_below(root, pattern, OF_ROOT), ""
    place = open_path(named)
    kind = kind_of(place)
    if kind is None and "://" not in named and kind_of(open_path(root) / named) == "directory":
        return runs_below(f"{root}/{named}", pattern), ""
    is_word = kind is None and "/" not in named
    if is_word and (points := points_of(named, runs_below(root, pattern, OF_ROOT))):
        return points, named
    if kind is None:
        raise UsageError(
            f"ls {named}: there is no such directory, and no such sweep in {root}.",
            f"Those here: ls -d */   Runs of {root}: getiaction-launch ls",
        )
    if kind == "file":
        raise UsageError(
            f"ls {named}: it is a file, not a directory.",
            f"getiaction-launch ls {show.short(place.parent)}",
        )
    return runs_below(named, pattern), ""


def _sweep(
    found: Sequence[Found], order: Order, key: str | None
) -> tuple[list[Entry], dict[str, object]]:
    """Read the points of a sweep, by its own metric unless another order is asked for."""
    points = read_entries(found)
    metric = key or metric_of(points)
    if metric is None or metric in KEYS:
        return order.arrange(points), {}
    facts: dict[str, object] = {"metric": metric, "lower_is_better": is_lower(metric, points)}
    return replace(order, key=metric).arrange(points), facts


def _say_none(place: str, pattern: str, states: Sequence[str], number: int) -> None:
    if number:
        words = " or ".join(states)
        show.say(f"no runs in {place} are {words}; in other states: {number}")
    elif pattern != ALL:
        show.say(f"no runs in {place} have a name like {pattern!r}")
    else:
        there = contents_of(open_path(place))
        show.say(f"no runs in {place}{there and f', which contains: {there}'}")
