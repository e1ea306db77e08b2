"""Everything about a run decided: the spec and the cluster config joined into a plan."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from getiaction_launch.backends.backend import Backend
from getiaction_launch.errors import SpecError
from getiaction_launch.plan.plan import DEFAULT_NAME, DEFAULT_ROOT, Plan, read_topology
from getiaction_launch.plan.spec import find_origins, read_spec, read_trainer
from getiaction_launch.storage.paths import resolve_root, use_options

_FLAGS_OF_KEYS = {
    "num_nodes": "--nodes",
    "accelerator": "--gpus-per-node",
    "devices": "--gpus-per-node",
    "experiment_name": "--name",
}
_OF_THE_RUN = ("restarts.", "backend.init_args.cpus_per_worker", "backend.init_args.memory_mb")


def prepare(
    *,
    config: Sequence[str] = (),
    overrides: Sequence[tuple[str, str]] = (),
    script: Sequence[str] = (),
    cluster: str = "local",
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    workers_per_node: int | None = None,
    name: str | None = None,
    storage_root: str | None = None,
    settings: Mapping[str, tuple[str, str]] | None = None,
    sweep: Mapping[str, Any] | None = None,
    free_gpus: Callable[[int], int | None] | None = None,
) -> tuple[Plan, Backend]:
    """Decide everything about a run, without starting or writing anything.

    Args:
        config: YAML files of the spec.
        overrides: ``(dotted key, YAML value)`` on top of them.
        script: Instead of a spec: the user's ``train.py`` and its arguments.
        cluster: A cluster config, by name or path.
        nodes: Sets the Trainer's ``num_nodes``.
        gpus_per_node: Sets the Trainer's ``devices``, on GPUs; 0 means CPU.
        workers_per_node: For a script on CPU, whose Trainer cannot be read.
        name: Sets the Trainer's ``experiment_name``.
        storage_root: Instead of the cluster config's.
        settings: Over the cluster config's own: by key, the flag that sets it and the value.
        sweep: Of a point of a sweep: its ``group``, and its ``values`` by key.
        free_gpus: Instead of the backend's, on a node that knows better.

    Raises:
        LaunchError: If something in it is wrong.
    """
    from getiaction_launch.launch.cluster import find_cluster, read_cluster  # slow to import

    config_path, settings = find_cluster(cluster), settings or {}
    place = read_cluster(config_path, settings)
    point = (sweep or {}).get("values", {}).items()
    flags = {
        "--cluster": config_path.absolute(),
        "--nodes": nodes,
        "--gpus-per-node": gpus_per_node,
        "--workers-per-node": workers_per_node,
        "--name": name,
        "--storage-root": storage_root and resolve_root(storage_root, str(Path.cwd())),
        # The others are the scheduler's alone.
        **{flag: value for key, (flag, value) in settings.items() if key.startswith(_OF_THE_RUN)},
    }
    words = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    if script:
        script = [*script, *(f"--{key}={value}" for key, value in point)]
        words += script
    else:
        overrides = [*overrides, *point]
        words += [f"--config={Path(path).absolute()}" for path in config]
        words += [f"--{key}={value}" for key, value in overrides]
    if bool(script) == bool(config or overrides):
        raise SpecError(
            "give a spec or a script, and not both.",
            "getiaction-launch --config act.yaml   or   getiaction-launch train.py --lr 3e-4",
        )
    if script:
        arguments: list[str] = []
        script = _check_script(script)
        trainer = _describe_script(nodes, gpus_per_node, workers_per_node)
        name = name or Path(script[0]).stem
    else:
        if workers_per_node is not None:
            raise SpecError(
                "--workers-per-node is for scripts; a spec says it itself.",
                f"--trainer.devices={workers_per_node}",
            )
        arguments = read_spec(config, overrides)
        arguments += _read_flags(arguments, overrides, nodes, gpus_per_node, name)
        trainer = read_trainer(arguments)
        name = str(trainer.get("experiment_name") or DEFAULT_NAME)
    if "/" in name or name in (".", ".."):
        raise SpecError(f"experiment_name={name!r} is no plain name.", "e.g. --name pusht_act_v1")
    root = str(trainer.get("default_root_dir") or DEFAULT_ROOT)
    root = resolve_root(root, storage_root or place.storage_root or str(Path.cwd()))
    use_options(root, place.storage_options)
    plan = Plan(
        name=name,
        root=root,
        arguments=arguments,
        script=list(script),
        words=words,
        topology=read_topology(trainer, free_gpus or place.backend.free_gpus),
        working_directory=str(place.backend.working_directory() or Path.cwd()),
        env_vars=place.env_vars,
        forward_env_vars=place.forward_env_vars,
        saving=place.saving,
        uploading=place.uploading,
        restarts=place.restarts,
        sweep=dict(sweep or {}),
    )
    return plan, place.backend


def _check_script(script: Sequence[str]) -> list[str]:
    path = Path(script[0])
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise SpecError(
            f"script {script[0]!r}: {error.strerror}.", f"Is it there? ls {path.parent}"
        ) from error
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"script {script[0]!r} is not Python: {error}.") from error
    return [str(path.absolute()), *script[1:]]


def _describe_script(nodes: int | None, gpus: int | None, workers: int | None) -> Mapping[str, Any]:
    """A script's Trainer cannot be read, so the flags say what it would."""
    if gpus and workers not in (None, gpus):
        raise SpecError(
            f"--workers-per-node {workers} contradicts --gpus-per-node {gpus}.",
            f"Each GPU has one worker: leave out --workers-per-node {workers}",
        )
    trainer: dict[str, Any] = {"num_nodes": 1 if nodes is None else nodes}
    if gpus is not None:
        trainer["accelerator"] = "gpu" if gpus else "cpu"
    if gpus or workers is not None:
        trainer["devices"] = gpus or workers
    return trainer


def _read_flags(
    arguments: Sequence[str],
    overrides: Sequence[tuple[str, str]],
    nodes: int | None,
    gpus_per_node: int | None,
    name: str | None,
) -> list[str]:
    """Read the launcher's own flags as overrides of the Trainer's keys.

    Raises:
        SpecError: If an override that was typed says something else.
    """
    values: dict[str, object] = {"num_nodes": nodes, "experiment_name": name}
    if gpus_per_node is not None:
        values["accelerator"] = "gpu" if gpus_per_node else "cpu"
        values["devices"] = gpus_per_node or None
    typed = read_trainer(arguments[len(arguments) - len(overrides) :])
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if key in typed and str(typed[key]) not in (str(value), "auto"):
            raise SpecError(
                f"{_FLAGS_OF_KEYS[key]} makes trainer.{key}={value!r}, "
                f"but --trainer.{key}={typed[key]!r} is given too.",
                "Keep one of the two.",
            )
    return [f"--trainer.{key}={value}" for key, value in given.items()]


def trace(plan: Plan, keys: Iterable[str]) -> dict[str, str]:
    """Find where each value of a plan's spec comes from.

    Args:
        plan: What :func:`prepare` decided.
        keys: Dotted keys of the spec as its parser understands it.

    Returns:
        For each key a config file's path, ``command line``, the same with the launcher's flag that
        sets it, or ``default``.
    """
    words = [word.partition("=") for word in plan.words]
    origins = [_show_path(Path(value)) for flag, _, value in words if flag == "--config"]
    for argument in plan.arguments[2 * len(origins) :]:
        key = argument.partition("=")[0].rpartition(".")[2]
        is_typed = argument in plan.words
        origins.append("command line" if is_typed else f"command line ({_FLAGS_OF_KEYS[key]})")
    return find_origins(keys, plan.arguments, origins)


def _show_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
