"""Checks the addresses for messages about a run, before the run is submitted."""

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from getiaction_launch.errors import CheckError, ClusterConfigError, nearest_first
from getiaction_launch.plan.notify import variable_of
from getiaction_launch.plan.secrets import is_secret

_SCHEME = re.compile(r"([A-Za-z][\w+.-]*)://")
_CHANNEL = re.compile(r"[#@][\w-]{1,40}")
_PROTOCOLS = ("protocols", "secure_protocols")
"""What apprise calls the schemes of its services."""
INSTALL = "pip install 'getiaction-launch[notify]'"


def refuse_secret_urls(entries: Iterable[str]) -> None:
    """Refuse a URL with a password or token in it: a plan is written to the run's directory.

    Args:
        entries: The entries of ``notify``.

    Raises:
        ClusterConfigError: If an entry is not a URL that apprise understands, or holds a secret.
        CheckError: If apprise is needed to know and is not installed.
    """
    for entry in entries:
        if variable_of(entry) is None and _holds_secret(entry):
            shown = _shown(entry)
            name = f"{shown.partition(':')[0].upper()}_URL"
            raise ClusterConfigError(
                f"notify: {shown} has a password or token in it, and would be written to the run's "
                "directory.",
                f"export {name}='{shown}', and name the variable: --notify {name}, or in the "
                f"cluster config\nnotify: [{name}]",
            )


def check_addresses(entries: Iterable[str]) -> None:
    """Check that apprise is there and understands all addresses; nothing is sent.

    Args:
        entries: The entries of ``notify``.

    Raises:
        CheckError: If apprise is not installed, or a variable is not set.
        ClusterConfigError: If apprise does not understand one.
    """
    for entry in entries:
        variable = variable_of(entry)
        url = os.environ.get(variable) if variable else entry
        if not url:
            raise CheckError(
                f"notify names {variable}, which is not set in this shell.",
                f"export {variable}='slack://...', or remove it from notify.",
            )
        _private_and_public(url, variable)


def _holds_secret(url: str) -> bool:
    private, public = _private_and_public(url, None)
    names = (name.strip("+-:") for name, _ in parse_qsl(urlsplit(url).query))
    return private != public or any(map(is_secret, names))


def _private_and_public(url: str, variable: str | None) -> tuple[str, str]:
    """Return the URL as apprise understands it, and the same without what apprise keeps private."""
    try:
        import apprise
    except ImportError as error:
        raise CheckError("notify needs apprise, which is not installed.", INSTALL) from error
    server = apprise.Apprise.instantiate(url)
    if server is not None:
        return server.url(), server.url(privacy=True)
    shown = f"{variable}={_shown(url)}" if variable else _shown(url)
    scheme = _SCHEME.match(url)
    known = apprise.Apprise().details()["schemas"]
    schemes = [s for each in known for key in _PROTOCOLS for s in each[key] or ()]
    if scheme and scheme[1].lower() in schemes:
        raise ClusterConfigError(
            f"notify: {shown} is not a complete address for apprise.",
            f"What follows {scheme[1]}:// is described in https://appriseit.com/services/",
        )
    if scheme is None and variable is None:
        raise ClusterConfigError(
            f"notify: {shown} is not an address: a service's address has :// in it.",
            "Write the service's URL, as in notify: ['ntfy://my-topic'], or the name of a variable "
            "that holds it. All services: https://appriseit.com/services/",
        )
    raise ClusterConfigError(
        f"notify: {shown} is not an address that apprise knows.",
        f"{nearest_first(scheme[1] if scheme else url[:20], schemes)} "
        "All of them: https://appriseit.com/services/",
    )


def _shown(url: str) -> str:
    """Return as much of a URL as can be no secret."""
    scheme = _SCHEME.match(url)
    if scheme:
        return f"{scheme[0]}..."
    return repr(url) if _CHANNEL.fullmatch(url) else "an entry without ://"
