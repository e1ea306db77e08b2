"""Loggers: what they need on the nodes, where they write, and how often."""

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal, unknown
from getiaction_launch.checking.rules.checkpoints import check_directory

_DEFAULT_LOG_STEPS = 50
_WANDB_HOST = "api.wandb.ai"
_OTHER_LOGINS = ("WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE")
_ANONYMOUS = ("allow", "must")
_NO_UPLOAD = ("offline", "disabled", "dryrun")


def check_loggers(built: Built) -> Iterator[Finding]:
    """Check the loggers of a Trainer, whose packages were imported when they were built.

    Args:
        built: What the spec names.
    """
    from lightning.pytorch.loggers import Logger

    found: list[Finding] = []
    names = []
    for logger in built.trainer.loggers:
        name = type(logger).__name__
        if not isinstance(logger, Logger):
            what = f"trainer.logger={logger!r} is not a logger, but of the class {name}."
            fix = "Give an object: logger=TensorBoardLogger('logs'), of lightning.pytorch.loggers"
            yield refusal("loggers", "logger", what, fix)
            return
        names.append(name)
        key = built.key_of(name, "")
        if not key or (built.script and not built.arguments.get("logger")):
            continue  # the default one, which writes to the run's directory
        if name == "WandbLogger":
            found += _of_wandb(built, logger, key)
        directory = getattr(logger, "save_dir", None)
        if directory:
            found += check_directory(built, f"{key}.save_dir", str(directory))
    yield from found
    if not any(finding.is_refusal for finding in found):
        yield ok("loggers", ", ".join(names) or "none")


def check_intervals(built: Built, steps: int | None) -> Iterator[Finding]:
    """Check that training has as many steps as lie between two points of a curve.

    Args:
        built: What the spec names.
        steps: Number of optimizer steps of the whole training; None if it is not known.
    """
    seldom = built.arguments.get("log_every_n_steps") or 0
    if steps and seldom > max(steps, _DEFAULT_LOG_STEPS):
        yield doubt(
            "loggers",
            "trainer.log_every_n_steps",
            f"trainer.log_every_n_steps={seldom} is more than the {steps} steps of training, so no "
            "curve has a point.",
            f"--trainer.log_every_n_steps={max(1, steps // 10)}",
        )


def _of_wandb(built: Built, logger: Any, key: str) -> Iterator[Finding]:  # noqa: ANN401
    variables = {**os.environ, **built.plan.env_vars}
    forwarded = built.plan.forward_env_vars
    options = getattr(logger, "_wandb_init", {})
    is_offline = getattr(logger, "_offline", False) or options.get("mode") in _NO_UPLOAD
    if is_offline or variables.get("WANDB_MODE") in _NO_UPLOAD:
        return
    if options.get("anonymous") or variables.get("WANDB_ANONYMOUS") in _ANONYMOUS or _is_in_netrc():
        return
    has_key = bool(variables.get("WANDB_API_KEY"))
    is_copied = forwarded is None or "WANDB_API_KEY" in {*forwarded, *built.plan.env_vars}
    if has_key and is_copied:
        return
    if built.place.settings.get("setup"):
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
            f"{key}: WandbLogger uploads, but this shell has no WANDB_API_KEY and ~/.netrc no key.",
            f"wandb login, or export WANDB_API_KEY=...; without uploads: --{key}.offline=true or "
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
        return netrc.netrc(Path(path).expanduser()).authenticators(_WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
