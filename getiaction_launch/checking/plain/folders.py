"""Directories that each rank, or each attempt, makes anew under another name."""

import ast
import contextlib
import functools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.frames import is_own
from getiaction_launch.checking.ranks.rank_zero import ranks_of
from getiaction_launch.checking.replacing import replacing
from getiaction_launch.checking.source.source import Source

_MAKERS = ("os", "pathlib", "pathlib._local")
"""Modules that make a directory for their caller."""
_CHECKPOINTS = {".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors", ".pkl"}
_BY_TIME = ("%Y%m%d%H%M", "%y%m%d%H%M", "%m%d%H%M", "%d%m%Y%H%M", "%d%m%y%H%M", "%m%d%Y%H%M")
"""Orders of the parts of a time in a name, which may have seconds behind them."""
_LONG_SECONDS = 600
"""How long ago a directory may have been made that is named by the present time."""
_NUMBERS = re.compile(r"\d+")


class Folders:
    """The directories that a program makes, each with the line that makes it.

    Args:
        source: The program, as it was read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._made: dict[str, str] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch in the context which directories are made."""
        make: Callable[..., None] = os.mkdir

        @functools.wraps(make)
        def making(path: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as os has it
            # Noted first, since another rank may have made it a moment ago.
            frame = _caller(sys._getframe(1))  # noqa: SLF001 - nothing has been raised
            if frame is not None and isinstance(path, str | Path):
                place = shown((frame.f_code.co_filename, frame.f_lineno))
                self._made[place] = str(Path(path).absolute())
            make(path, *arguments, **options)

        with replacing(os, mkdir=making):
            yield

    def state(self) -> dict[str, str]:
        """Return the newest directory that each line has made."""
        return dict(self._made)

    def compare(self, theirs: dict[str, str]) -> Finding | None:
        """Return a doubt if the ranks draw names for what only rank 0 writes to.

        Args:
            theirs: What :meth:`state` has returned on the other rank.
        """
        nodes = [node for node in ast.walk(self._source.tree) if isinstance(node, ast.If)]
        if not any(ranks_of(node.test) == "rank 0" for node in nodes):
            return None
        for place, path in self._made.items():
            other = theirs.get(place, path)
            if not path.startswith(tempfile.gettempdir()) and _is_drawn(path, other):
                names = f"{Path(path).name} and {Path(other).name}"
                return doubt(
                    "ranks",
                    place.partition(" ")[0],
                    f"{place}: each rank makes a directory of its own, as {names} of two that were "
                    "tried: what rank 0 writes there, the others do not find, nor does a restart.",
                    "Use the directory of the run, os.environ['GETIACTION_RUN_DIR']; or agree on a "
                    "name: torch.distributed.broadcast_object_list",
                )
        return None

    def named_by_time(self) -> Iterator[Finding]:
        """Find checkpoints where no other attempt will look for them."""
        for place, path in self._made.items():
            kept = (each for each in Path(path).rglob("*") if each.suffix in _CHECKPOINTS)
            if _is_of_now(Path(path).name) and (first := next(kept, None)):
                yield doubt(
                    "resume",
                    place.partition(" ")[0],
                    f"{place}: {Path(path).name} is named by the time, so each attempt of the run "
                    f"makes another directory, and a restart does not find {first.name}.",
                    "Use the directory of the run, which stays: os.environ['GETIACTION_RUN_DIR']",
                )
                return


def _is_of_now(name: str) -> bool:
    """Whether a name has the digits of the present time, or of a moment ago."""
    digits, now = "".join(_NUMBERS.findall(name)), time.time()
    times = [time.localtime(now - ago) for ago in range(0, _LONG_SECONDS, 60)]
    shown = [time.strftime(order, each) for order in _BY_TIME for each in times]
    shown += {str(int(now - ago))[:-2] for ago in range(0, _LONG_SECONDS, 100)}  # seconds of Unix
    return any(each in digits for each in shown)


def _caller(frame: FrameType | None) -> FrameType | None:
    """Return the call of the user's own code that makes a directory; None if a library does."""
    while frame is not None and frame.f_globals.get("__name__") in _MAKERS:
        frame = frame.f_back
    return frame if frame is not None and is_own(frame.f_code.co_filename) else None


def _is_drawn(path: str, other: str) -> bool:
    """Whether two names beside each other differ by more than numbers, such as those of ranks."""
    is_beside = Path(path).parent == Path(other).parent
    return is_beside and _NUMBERS.sub("", path) != _NUMBERS.sub("", other)
