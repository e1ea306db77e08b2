"""Start a run from Python in one call, with plain values."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath

from getiaction_launch.launch.prepare import prepare
from getiaction_launch.launch.programs.started import StartedRun
from getiaction_launch.launch.submit import submit
from getiaction_launch.storage.strict_json import dumps

Words = str | PathLike[str] | Sequence[str | PathLike[str]]


def start(
    *,
    config: Words = (),
    overrides: Mapping[str, object] | None = None,
    script: Words = (),
    cluster: str = "local",
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    workers_per_node: int | None = None,
    name: str | None = None,
    storage_root: str | None = None,
    notify: Sequence[str] = (),
) -> StartedRun:
    """Start a run as the command line does, and return without waiting for its end.

    Args:
        config: One or several YAML files of the spec, of which later ones win over earlier ones.
        overrides: Values for dotted keys of the spec: ``{"trainer.max_epochs": 1}``.
        script: A ``train.py``, or a list of its path and its arguments, instead of a spec.
        cluster: The name or the path of a cluster config.
        nodes: How many nodes to use; sets the Trainer's ``num_nodes``.
        gpus_per_node: How many GPUs to use on each node; sets the Trainer's ``devices``. 0 for CPU.
        workers_per_node: How many workers a script starts on each node of CPUs.
        name: The name of the run; sets the Trainer's ``experiment_name``.
        storage_root: Replaces the ``storage_root`` of the cluster config.
        notify: Replaces the ``notify`` of the cluster config.

    Returns:
        The run, whose ``wait()``, ``status()``, ``logs()`` and ``cancel()`` are for what follows.

    Raises:
        LaunchError: If something is missing, contradicts something else, or is refused; then no
            run directory is left behind.
    """
    plan, backend = prepare(
        config=_listed(config),
        overrides=[(key, as_yaml(value)) for key, value in (overrides or {}).items()],
        script=_listed(script),
        cluster=cluster,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        workers_per_node=workers_per_node,
        name=name,
        storage_root=storage_root,
        settings={"notify": ("--notify", list(notify))} if notify else {},
    )
    return StartedRun(submit(plan, backend.resolve_runs(plan.root)).directory)


def as_yaml(value: object) -> str:
    """Write a plain value as it stands behind ``--key=`` on a command line, in one line.

    Args:
        value: A number, a text, a path, None, or a list or mapping of those.
    """
    import yaml

    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, str) and value and yaml.safe_load(value) == value:
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    text = text.removesuffix("\n").removesuffix("\n...")
    return dumps(value) if "\n" in text else text  # which is YAML, too


def _listed(words: Words) -> list[str]:
    return [fspath(w) for w in ([words] if isinstance(words, str | PathLike) else words)]
