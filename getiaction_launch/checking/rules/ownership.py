"""Two owners of preemption: what else would save, requeue or end a run that is stopped."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_classes
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
    for kind, key, source in own_classes(built):
        if found := OWN_SIGNALS.search(source):
            is_callback = any(isinstance(each, kind) for each in built.trainer.callbacks)
            odd = kind.__name__ if is_callback else found[0]
            name = f"{kind.__module__}.{kind.__qualname__}"
            yield refusal(
                "preemption",
                key,
                f"{key}: {name} handles preemption ({found[0]}...), and the launcher does so too.",
                f"Remove {odd}: the launcher saves, requeues and resumes",
            )


def check_requeue(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that no plugin of Lightning's requeues the job, before anything is built.

    Args:
        spec: The spec as its parser understands it.
    """
    plugins = (spec.get("trainer") or {}).get("plugins") or []
    for number, plugin in enumerate(plugins if isinstance(plugins, list) else [plugins]):
        content = plugin if isinstance(plugin, Mapping) else {"class_path": plugin}
        options = content.get("init_args") or {}
        is_slurm = str(content.get("class_path")).endswith("SLURMEnvironment")
        if is_slurm and options.get("auto_requeue", True):
            key = f"trainer.plugins[{number}]"
            yield refusal(
                "preemption",
                key,
                f"{key}: SLURMEnvironment requeues the job (auto_requeue=True), and the launcher "
                "does so too.",
                "Remove SLURMEnvironment: the launcher saves, requeues and resumes",
            )
