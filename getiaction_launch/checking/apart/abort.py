"""What is left of a rank that native code has aborted: Gloo does so where collectives differ.

Such a rank raises nothing, and cannot report any more. What it writes to its descriptor 2 is kept
in a file, with the lines at which it was; the other rank only notices that it is gone.
"""

import contextlib
import faulthandler
import os
import re
import resource
import time
import traceback
from pathlib import Path

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.checking.frames import is_own

LOST_PEER = re.compile(r"closed by peer|timed out|connection reset", re.IGNORECASE)
"""What a collective raises where another rank has ended, or is late."""
_MISMATCH = re.compile(
    r"Received data size doesn't match expected size|Detected mismatch between collectives"
)
_SIZES = re.compile(r"nbytes\. (\d+) vs (\d+)\.")
_ABORTED = "Fatal Python error: Aborted"
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)
_CUT, _CUT_UNEVENLY = "a check has ended an epoch early\n", "a check has ended batches early\n"
REFUSED = "a check may not "
"""How what is refused to a rank begins, in this file too."""
_WAIT_SECONDS, _LOOK_SECONDS = 2, 0.05


def keep_words(scratch: Path, rank: int) -> None:
    """Keep what native code of this process says, and where it is when it is aborted.

    Args:
        scratch: Directory that keeps it.
        rank: The rank of this process.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    with contextlib.suppress(OSError):  # a second attempt has none
        file = os.open(_path(scratch, rank), flags, 0o600)
        os.dup2(file, 2)
        os.close(file)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        faulthandler.disable()  # else it does nothing, where Lightning has reset its handlers
        faulthandler.enable(2)


def keep_cut(*, is_even: bool) -> None:
    """Keep that an epoch was ended early.

    Args:
        is_even: Whether each rank has read as many samples of it.
    """
    _keep(_CUT if is_even else _CUT_UNEVENLY)


def keep_error(error: BaseException) -> None:
    """Keep what a collective has raised, and where, if it may come of a mismatch."""
    if LOST_PEER.search(str(error)) or _MISMATCH.search(str(error)):
        frames = reversed(traceback.extract_tb(error.__traceback__))
        lines = [f'  File "{each.filename}", line {each.lineno} in {each.name}' for each in frames]
        _keep("\n".join([str(error), *lines, ""]))


def await_words(scratch: Path) -> None:
    """Wait until rank 1 has said where it is, if rank 0 was aborted, with which it ends.

    Args:
        scratch: Directory that has what both have said.
    """
    if _ABORTED in _read(scratch, 0):
        _await_place(scratch, 1)


def mismatch_of(scratch: Path) -> Finding | None:
    """Return what is wrong with two ranks that have called other collectives; None if they do not.

    Args:
        scratch: Directory that has what both have said.
    """
    found = [rank for rank in (0, 1) if _MISMATCH.search(_read(scratch, rank))]
    if not found:
        return None
    _await_place(scratch, found[0])
    texts = [_read(scratch, rank) for rank in (0, 1)]
    cuts = [text.count(_CUT) for text in texts]
    if any(_CUT_UNEVENLY in text or REFUSED in text for text in texts) or cuts[0] != cuts[1]:
        why = "two ranks call other collectives, which may come of the trial"
        return unknown("ranks", why)
    places = [_place(text) for text in texts]
    said = [f"rank {rank} is at {place}" for rank, place in enumerate(places) if place]
    rank = found[0]
    if sizes := _SIZES.search(texts[rank]):
        sent, expected = sizes.groups()
        said.append(f"rank {rank} expects {expected} bytes, and gets {sent}")
    key = next((place.partition(" ")[0] for place in reversed(places) if place), "ranks")
    return refusal(
        "ranks",
        key,
        f"two ranks were tried, and what one sends does not fit what the other expects: "
        f"{'; '.join(said)}.",
        "Have each rank call the same collectives in the same order, with tensors of the same "
        "shapes: as many batches on each, and what differs in length padded, or given to "
        "torch.distributed.all_gather_object()",
    )


def _place(text: str) -> str:
    """Return the innermost line of the user's own code, of the main thread; empty if none is known.

    What was raised comes first in the text, and a thread's calls the innermost first.
    """
    before, _, after = text.partition(_ABORTED)
    threads = [before] if _FRAME.search(before) else reversed(after.split("\n\n"))
    for thread in threads:
        for file, line in _FRAME.findall(thread):
            if is_own(file):
                return shown((file, int(line)))
    return ""


def _await_place(scratch: Path, rank: int) -> None:
    """Wait until a rank has said where it is, and nothing more: its peer may notice it earlier."""
    deadline, before = time.monotonic() + _WAIT_SECONDS, ""
    while time.monotonic() < deadline:
        words = _read(scratch, rank)
        if _FRAME.search(words) and words == before:
            return
        before = words
        time.sleep(_LOOK_SECONDS)


def _path(scratch: Path, rank: int) -> Path:
    return scratch / f"words_of_rank_{rank}.txt"


def _read(scratch: Path, rank: int) -> str:
    with contextlib.suppress(OSError):
        return _path(scratch, rank).read_text(encoding="utf-8", errors="replace")
    return ""


def _keep(words: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, words.encode())
