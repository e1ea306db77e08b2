"""The addresses in ``notify``: URLs as apprise reads them, or the variables that hold them."""

import re
from collections.abc import Iterable, Sequence

_VARIABLE = re.compile(r"\$?\{?([A-Za-z_]\w*)\}?")


def variable_of(entry: str) -> str | None:
    """Return the environment variable that an entry names; None if it is a URL itself.

    Args:
        entry: ``SLACK_URL``, ``$SLACK_URL``, ``${SLACK_URL}``, or a URL.
    """
    found = _VARIABLE.fullmatch(entry)
    return found[1] if found else None


def variables_of(entries: Iterable[str]) -> list[str]:
    """Return the environment variables that entries name."""
    return [name for entry in entries if (name := variable_of(entry))]


def forwarded(names: Sequence[str] | None, entries: Iterable[str]) -> list[str] | None:
    """Return ``forward_env_vars`` with the variables that entries of ``notify`` name.

    Args:
        names: The environment variables to copy; None copies all.
        entries: The entries of ``notify``.
    """
    return None if names is None else list(dict.fromkeys([*names, *variables_of(entries)]))
