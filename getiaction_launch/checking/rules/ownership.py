"""Two owners of preemption: what else would save, requeue or end a run that is stopped."""

import ast
import contextlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from getiaction_launch.checking.built import Built, keys_of_classes
from getiaction_launch.checking.finding import Finding, ok, refusal
from getiaction_launch.checking.script.rank_zero import collectives_of_rank_0

OWN_SIGNALS = re.compile(
    r"signal\.signal\(\s*(signal\.)?(SIGTERM|SIGUSR1|SIGUSR2)|scontrol['\", ]+requeue"
)
"""What the source of a class has that handles a preemption."""
_LIBRARIES = ("lightning.", "pytorch_lightning.", "torch.", "getiaction", "builtins", "abc")


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
    for kind, key, source in _own_classes(built):
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


def check_collectives(built: Built) -> Iterator[Finding]:
    """Check that no class has rank 0 wait alone for the other ranks.

    Args:
        built: What the spec names.
    """
    if built.plan.topology.world_size == 1:
        return
    for kind, key, source in _own_classes(built):
        with contextlib.suppress(SyntaxError):
            tree = ast.parse(textwrap.dedent(source))
            for name, line in collectives_of_rank_0(tree):
                first = inspect.getsourcelines(kind)[1]
                at = f"{Path(inspect.getfile(kind)).name}:{first + line - 1}"
                yield refusal("ranks", key, *words_of_collective(at, name))


def words_of_collective(at: str, name: str) -> tuple[str, str]:
    """Return what is wrong with a collective of rank 0 alone, and the fix.

    Args:
        at: File and line of the call.
        name: Name of what is called.
    """
    what = f"{at}: {name} is called on rank 0 alone, where it waits for the other ranks forever."
    return what, f"Call {name} on all ranks, outside of the condition: only rank 0 writes files"


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


def _own_classes(built: Built) -> Iterator[tuple[type, str, str]]:
    """Yield the classes of the user's own, with their keys and their source."""
    keys = keys_of_classes(built.spec)
    parts = [*((each, "trainer.callbacks") for each in built.trainer.callbacks)]
    for part, default in (*parts, (built.model, "model"), (built.data, "data")):
        for kind in type(part).__mro__ if part is not None else ():
            if kind.__module__.startswith(_LIBRARIES) or kind.__module__ == __name__:
                continue
            with contextlib.suppress(OSError, TypeError):
                key = keys.get(f"{kind.__module__}.{kind.__qualname__}", default)
                yield kind, kind.__name__ if built.script else key, inspect.getsource(kind)
