"""Two owners of preemption: what else would save, requeue or end a run that is stopped."""

import inspect
import re
from collections.abc import Iterator

from getiaction_launch.checking.built import Built, keys_of_classes
from getiaction_launch.checking.finding import Finding, ok, refusal

OWN_SIGNALS = re.compile(
    r"signal\.signal\(\s*(signal\.)?(SIGTERM|SIGUSR1|SIGUSR2)|scontrol['\", ]+requeue"
)
"""What the source of a class has that handles a preemption."""


def check_owners(built: Built) -> Iterator[Finding]:
    """Check that only the launcher saves and requeues a run that is stopped.

    Args:
        built: What the spec names.
    """
    found = list(_refusals(built))
    yield from found
    if not found:
        yield ok("preemption", "the launcher saves, requeues and resumes")


def _refusals(built: Built) -> Iterator[Finding]:
    keys = keys_of_classes(built.spec)
    for path, key in keys.items():
        if path.endswith(".SLURMEnvironment") and _requeues(built):
            yield refusal(
                "preemption",
                key,
                f"{key}: SLURMEnvironment requeues the job (auto_requeue=True), and the launcher "
                "does so too.",
                "Remove SLURMEnvironment: the launcher saves, requeues and resumes",
            )
    for callback in built.trainer.callbacks:
        kind = type(callback)
        if kind.__module__.startswith(("lightning.", "pytorch_lightning.", "getiaction")):
            continue
        try:
            source = inspect.getsource(kind)
        except (OSError, TypeError):
            continue
        if found := OWN_SIGNALS.search(source):
            name = f"{kind.__module__}.{kind.__qualname__}"
            key = keys.get(name, "trainer.callbacks")
            yield refusal(
                "preemption",
                key,
                f"{key}: {name} handles preemption ({found[0]}...), and the launcher does so too.",
                f"Remove {kind.__name__}: the launcher saves, requeues and resumes",
            )


def _requeues(built: Built) -> bool:
    environment = getattr(built.trainer.strategy, "cluster_environment", None)
    return bool(getattr(environment, "auto_requeue", True))
