"""Values that a space has cut in two, as a shell ends a word there: ``--sweep lr=1e-3, 1e-4``."""

import shlex
from collections.abc import Sequence

from getiaction_launch.errors import UsageError

_BRACKETS = (("[", "]"), ("{", "}"), ("(", ")"))
_CONTINUING = (",", *"]})")


def refuse_cut_value(before: Sequence[str], word: str, rest: Sequence[str]) -> None:
    """Refuse a word that is the second part of the value before it.

    Args:
        before: The words before it.
        word: A word that stands alone, or begins with a dash.
        rest: The words behind it.

    Raises:
        UsageError: If the value before it is open, or the word begins in the middle of one; the
            fix has the whole value.
    """
    is_flag = word.startswith("-") and not word[1:2].isdigit()
    if not before or is_flag or not (_is_open(before[-1]) or word.startswith(_CONTINUING)):
        return
    value = before[-1] + word
    for more in rest:
        if not _is_open(value):
            break
        value += more
    flag = "" if value.startswith("-") or not before[-2:-1] else before[-2]
    typed = f"{flag} {shlex.quote(value)}" if flag.startswith("-") else shlex.quote(value)
    raise UsageError(
        f"{word!r} belongs to {before[-1]!r}: a shell ends a value at a space.",
        f"Write it without spaces: {typed}",
    )


def _is_open(value: str) -> bool:
    """Return whether a value ends in a comma, or before all of its brackets are closed."""
    counts = (value.count(first) > value.count(last) for first, last in _BRACKETS)
    return value.endswith(",") or any(counts)
