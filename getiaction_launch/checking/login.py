"""Whether W&B finds a key on the workers, which have no terminal to ask for it."""

import netrc
import os
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.plan.plan import Plan

_HOST = "api.wandb.ai"
_OTHER_LOGINS = ("WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE")
_ANONYMOUS = ("allow", "must")
NO_UPLOAD = ("offline", "disabled", "dryrun")
"""Modes of W&B in which it needs no key."""


def check_login(
    key: str, uploader: str, offline: str, plan: Plan, place: Place
) -> Iterator[Finding]:
    """Find that what uploads to W&B has no key there.

    Args:
        key: The user's key of what uploads.
        uploader: What uploads, as the beginning of a sentence.
        offline: What to write for a run without uploads.
        plan: The plan of the run.
        place: Where the run would be started.
    """
    variables = {**os.environ, **plan.env_vars}
    forwarded = plan.forward_env_vars
    if variables.get("WANDB_MODE") in NO_UPLOAD or _is_in_netrc():
        return
    if variables.get("WANDB_ANONYMOUS") in _ANONYMOUS:
        return
    has_key = bool(variables.get("WANDB_API_KEY"))
    is_copied = forwarded is None or "WANDB_API_KEY" in {*forwarded, *plan.env_vars}
    if has_key and is_copied:
        return
    if place.settings.get("setup"):
        yield unknown("loggers", f"{key}: whether the lines of setup set WANDB_API_KEY")
    elif any(map(variables.get, _OTHER_LOGINS)) or any(path.exists() for path in _settings()):
        yield unknown("loggers", f"{key}: W&B has settings of its own here")
    elif has_key:
        yield refusal(
            "loggers",
            "forward_env_vars",
            "WANDB_API_KEY is set here, but forward_env_vars does not copy it to the workers.",
            f"In the cluster config: forward_env_vars: {[*(forwarded or ()), 'WANDB_API_KEY']}",
        )
    else:
        yield refusal(
            "loggers",
            key,
            f"{uploader} uploads, but this shell has no WANDB_API_KEY and ~/.netrc no key.",
            f"wandb login, or export WANDB_API_KEY=...; without uploads: {offline} or "
            "export WANDB_MODE=offline",
        )


def _settings() -> list[Path]:
    """Return where W&B keeps its settings, such as those of ``wandb offline``."""
    home = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    return [Path("wandb", "settings"), Path(home, "settings")]


def _is_in_netrc() -> bool:
    """Whether W&B finds a key as requests does: also in a file that others may read."""
    named = os.environ.get("NETRC")
    return any(map(_has_key, [named] if named else ["~/.netrc", "~/_netrc"]))


def _has_key(path: str) -> bool:
    try:
        return netrc.netrc(Path(path).expanduser()).authenticators(_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
