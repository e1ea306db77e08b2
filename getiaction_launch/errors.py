"""Every error that a user can meet, on one screen.

Each carries what was wrong (with the user's own key and value) and the fix, ready to paste.
The command line prints them as ``error: <what>`` and the fix below, without a traceback.
"""

import difflib
from collections.abc import Iterable


class LaunchError(Exception):
    """Something that the user or the site can mend.

    Args:
        what: What was wrong, with the user's own key and value.
        fix: What to do, ready to paste.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)


class UsageError(LaunchError):
    """The command line is wrong."""

    exit_code = 2


class SpecError(LaunchError):
    """The spec (YAML, overrides or script) is wrong."""

    exit_code = 2


class ClusterConfigError(LaunchError):
    """The cluster config is missing or wrong."""

    exit_code = 2


class RunNotFoundError(LaunchError):
    """No run answers to that name."""

    exit_code = 2


class CheckError(LaunchError):
    """The plan is well-formed, but this cluster or storage cannot carry it out."""

    exit_code = 3


class RefusedError(LaunchError):
    """A scheduler says no, in its own words."""

    exit_code = 4


class UnreachableError(LaunchError):
    """A scheduler or storage does not answer."""

    exit_code = 5


class RecordError(UnreachableError, ValueError):
    """A record in a run's directory is damaged; the message names the file and the key.

    Also a ValueError, so code that tolerates text that is not JSON tolerates a damaged record.
    """


class StorageError(UnreachableError, OSError):
    """A remote file system does not do what it was asked, in its own words.

    Also an OSError, so code that tolerates a failing disk tolerates failing storage.
    """


def nearest_first(word: str, valid: Iterable[str], most: int | None = None) -> str:
    """Name the valid words, those nearest to ``word`` first, for the second line of an error.

    Args:
        word: What the user has typed.
        valid: The words that would have been right.
        most: How many of the nearest words to name, and no other; all words if not given.

    Returns:
        ``Did you mean 'a'? Valid: a, b, c.``; without the question where nothing is near.
    """
    words = sorted(set(valid))
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    question = f"Did you mean {near[0]!r}? " if near else ""
    if most is not None:
        nearest = difflib.get_close_matches(word, words, n=most, cutoff=0)
        return f"{question}Nearest: {', '.join(nearest)}."
    rest = [w for w in words if w not in near]
    return f"{question}Valid: {', '.join(near + rest)}."
