"""Variables of a shell in a path that no shell has read, where they are letters like all others."""

import os
import re

from getiaction_launch.errors import SpecError

_IN_BRACES = re.compile(r"\$\{(\w+)\}(?!\w)")
_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)")


def variable_in(path: str) -> str | None:
    """Return the first variable that a path spells as a shell would read it; None without one.

    Args:
        path: A path or a URL, as a user has written it: ``${SCRATCH}/runs``.

    Returns:
        The variable with its dollar sign: ``${SCRATCH}``.
    """
    found = _VARIABLE.search(path)
    return found[0] if found else None


def unexpanded(path: str) -> str | None:
    """Return the first variable of a path that is certainly not a directory's own name.

    Args:
        path: A path or a URL, as a user has written it.

    Returns:
        The variable with its dollar sign; None without one, or if what it stands in is there.
    """
    if (variable := variable_in(path)) is None:
        return None
    end = path.index(variable) + len(variable)
    whole = path[:end] + path[end:].partition("/")[0]
    return None if os.path.lexists(whole) else variable


def typed(path: str) -> str:
    """Return a path as one types it in double quotes for a shell, without needless braces.

    Args:
        path: A path or a URL with a variable in it.
    """
    return _IN_BRACES.sub(r"$\1", path)


def written_out(flag: str, path: str) -> str:
    """Return how to write a path without its variables, ready to paste.

    Args:
        flag: What sets the path, such as ``--storage-root=`` or ``job_dir:``.
        path: A path or a URL with a variable in it.
    """
    expanded = os.path.expandvars(path)
    if variable_in(expanded) or "@" in expanded:  # it is not set, or it may hold a password
        return f"Write the path itself: {flag}PATH"
    return f"Write the path itself: {flag}{expanded}"


def refuse_variable(key: str, flag: str, path: str) -> None:
    """Refuse a path that is taken literally where a shell would have expanded a variable.

    Args:
        key: The user's key that sets the path.
        flag: What sets the path, such as ``--storage-root=`` or ``job_dir:``.
        path: A path or a URL.

    Raises:
        SpecError: If it has a variable.
    """
    if variable := unexpanded(path):
        raise SpecError(
            f"{key}={path!r} is taken literally: nothing expands {variable} in YAML or between "
            "single quotes, so it would be a directory of that name.",
            written_out(flag, path),
        )
