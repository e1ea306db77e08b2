"""Loggers: what they need on the nodes, where they write, and how often."""

from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal
from getiaction_launch.checking.login import NO_UPLOAD, check_login
from getiaction_launch.checking.rules.checkpoints import check_directory

_DEFAULT_LOG_STEPS = 50


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
    options = getattr(logger, "_wandb_init", {})
    is_offline = getattr(logger, "_offline", False) or options.get("mode") in NO_UPLOAD
    if not is_offline and not options.get("anonymous"):
        fix = f"--{key}.offline=true"
        yield from check_login(key, f"{key}: WandbLogger", fix, built.plan, built.place)
