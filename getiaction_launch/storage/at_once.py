"""Does the same for several files or runs: at the same time where each waits for remote storage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from getiaction_launch.storage.paths import file_system, is_remote

ROUND_TRIPS = 16
"""How many requests to remote storage are under way at the same time."""
T = TypeVar("T")
R = TypeVar("R")


def for_each(
    function: Callable[[T], R], items: Sequence[T], place: Path, *, also_in_directory: bool = False
) -> list[R]:
    """Call a function for each item and return what it returns, in their order.

    Args:
        function: What to call; in several threads, where the client of remote storage allows it.
        items: What to call it with.
        place: Where the items lie.
        also_in_directory: Whether to use threads in a directory, too, which a network may separate
            from this machine.

    Raises:
        Exception: The first one that a call has raised.
    """
    # Beware: clients that are not asynchronous, as that of FTP, may have one connection for all.
    is_parallel = file_system(place)[0].async_impl if is_remote(place) else also_in_directory
    if len(items) < 2 or not is_parallel:  # noqa: PLR2004 - several
        return list(map(function, items))
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    with ThreadPoolExecutor(ROUND_TRIPS) as pool:
        return list(pool.map(function, items))
