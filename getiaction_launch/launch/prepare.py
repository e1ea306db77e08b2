"""Decide everything about a run: join a spec or script and a cluster config into a plan."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.backends.backend import Backend
from getiaction_launch.checking.addresses import refuse_secret_urls
from getiaction_launch.checking.built import Place
from getiaction_launch.errors import SpecError
from getiaction_launch.launch.freezing.arrival import arrived
from getiaction_launch.plan.notify import forwarded
from getiaction_launch.plan.plan import DEFAULT_NAME, DEFAULT_ROOT, Plan, SweepPoint, read_topology
from getiaction_launch.plan.program import Program, read_program
from getiaction_launch.plan.secrets import refuse_login
from getiaction_launch.plan.spec import find_origins, read_spec, read_trainer
from getiaction_launch.plan.text import check_name
from getiaction_launch.storage.paths import resolve_root, use_options
from getiaction_launch.storage.variables import refuse_variable

if TYPE_CHECKING:
    from getiaction_launch.launch.cluster import ClusterConfig

_FLAGS_OF_KEYS = {
    "num_nodes": "--nodes",
    "accelerator": "--gpus-per-node",
    "devices": "--gpus-per-node",
    "experiment_name": "--name",
}
# Settings that the nodes of a run read; the others concern only the scheduler.
_SETTINGS_OF_NODES = (
    "notify",
    "restarts.",
    "snapshot.",
    "backend.init_args.cpus_per_worker",
    "backend.init_args.memory_mb",
)


@dataclass(frozen=True)
class Flags:
    """The launcher's flags that stand for the Trainer's own keys."""

    nodes: int | None
    gpus_per_node: int | None
    workers_per_node: int | None
    name: str | None

    @property
    def trainer(self) -> dict[str, object]:
        """The Trainer's keys that the flags set."""
        accelerator = "gpu" if self.gpus_per_node else "cpu"
        keys = {
            "num_nodes": self.nodes,
            "experiment_name": self.name,
            "accelerator": None if self.gpus_per_node is None else accelerator,
            "devices": self.gpus_per_node or None,
        }
        return {key: value for key, value in keys.items() if value is not None}


@dataclass(frozen=True)
class _Training:
    """What to train.

    Attributes:
        trainer: The Trainer's keys that decide the topology and where the run's directory lies.
        default_name: The name of the run if the Trainer has no ``experiment_name``.
        arguments: The arguments of ``getiaction fit``; empty if there is a program.
        program: The user's own program; an empty one if there is a spec.
    """

    trainer: Mapping[str, object]
    default_name: str
    arguments: list[str] = field(default_factory=list)
    program: Program = field(default_factory=Program)


def prepare(
    *,
    config: Sequence[str] = (),
    overrides: Sequence[tuple[str, str]] = (),
    script: Sequence[str] = (),
    cluster: str = "local",
    place: "ClusterConfig | None" = None,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    workers_per_node: int | None = None,
    name: str | None = None,
    storage_root: str | None = None,
    settings: Mapping[str, tuple[str, object]] | None = None,
    sweep: SweepPoint | None = None,
    free_gpus: Callable[[int], int | None] | None = None,
    resume_args: Sequence[str] = (),
) -> tuple[Plan, Backend]:
    """Decide everything about a run, without starting or writing anything.

    Args:
        config: The spec's YAML files, of which later ones win over earlier ones.
        overrides: Dotted keys of the spec and their YAML values, which win over its files.
        script: A program and its arguments, instead of a spec: the path of a ``train.py``, ``-m``
            and a module, or the name of a command of this environment.
        cluster: The name or the path of a cluster config.
        place: That cluster config with `settings`, if it was read already.
        nodes: How many nodes to use; sets the Trainer's ``num_nodes``.
        gpus_per_node: How many GPUs to use on each node; sets the Trainer's ``devices``. 0 for CPU.
        workers_per_node: How many workers a script starts on each node of CPUs.
        name: The name of the run; sets the Trainer's ``experiment_name``.
        storage_root: Replaces the ``storage_root`` of the cluster config.
        settings: For each key of the cluster config to replace: the flag that sets it, for error
            messages, and the value.
        sweep: The run's point of a sweep, whose values are added to the spec or script.
        free_gpus: Replaces the function of the backend that counts the GPUs of a node.
        resume_args: Arguments that the program gets from the second attempt on, behind its own.

    Raises:
        LaunchError: If something is missing, contradicts something else, or cannot be read.
    """
    from getiaction_launch.launch.cluster import find_cluster, read_cluster  # slow to import

    config_path, settings = find_cluster(cluster), settings or {}
    place = place or read_cluster(config_path, settings)
    place.refuse_ssh(cluster)
    flags = Flags(nodes, gpus_per_node, workers_per_node, name)
    here, arrival = str(Path.cwd()), arrived()
    directory = str(place.backend.working_directory() or (arrival and arrival.directory) or here)
    refuse_variable("storage_root", "--storage-root=", storage_root or place.storage_root or "")
    if storage_root:
        storage_root = resolve_root(storage_root, here)
    point = sweep.values.items() if sweep else ()
    if script:
        script = [*script, *(f"--{key}={value}" for key, value in point)]
    else:
        overrides = [*overrides, *point]
    if bool(script) == bool(config or overrides):
        what = f"give a spec or a script{', not both' if script else ' to train'}."
        fix = "getiaction-launch --config act.yaml   or   getiaction-launch train.py --lr 3e-4"
        if script and not config:
            key = f"--{overrides[0][0]}={overrides[0][1]}"
            what = f"{key} in front of {script[0]} sets a key of a spec, and a script has none."
            fix = f"What the script itself takes stands behind it: {script[0]} {key}"
        raise SpecError(what, fix)
    if script:
        training = _of_program(script, flags, place, directory)
    elif resume_args:
        raise SpecError(
            f"--resume-args {shlex.join(resume_args)}: a spec takes no such arguments; it resumes "
            "from the launcher's checkpoint.",
            "Leave out --resume-args",
        )
    else:
        training = _of_spec(config, overrides, flags)
    root = str(training.trainer.get("default_root_dir") or DEFAULT_ROOT)
    refuse_variable("trainer.default_root_dir", "--trainer.default_root_dir=", root)
    root = resolve_root(root, storage_root or place.storage_root or here)
    refuse_login(root, "default_root_dir=")
    refuse_secret_urls(place.notify)
    check_name("default_root_dir", root)
    check_name("the working directory", here)
    use_options(root, place.storage_options)
    plan = Plan(
        name=_check_name(training.trainer.get("experiment_name") or training.default_name),
        root=root,
        arguments=training.arguments,
        script=training.program.words,
        topology=read_topology(training.trainer, free_gpus or place.backend.free_gpus),
        working_directory=directory,
        words=[
            f"--cluster={config_path.absolute()}",
            *flag_words(flags, storage_root, settings),
            *(f"--config={Path(path).absolute()}" for path in config),
            *([f"--resume-args={shlex.join(resume_args)}"] if resume_args else []),
            *(training.program.typed or (f"--{key}={value}" for key, value in overrides)),
        ],
        env_vars=place.env_vars,
        forward_env_vars=forwarded(place.forward_env_vars, place.notify),
        saving=place.saving,
        log_limit_mb=place.log_limit_mb,
        uploading=place.uploading,
        restarts=place.restarts,
        stalls=place.stalls,
        snapshot=place.snapshot,
        notify=place.notify,
        sweep=sweep,
        program=training.program.kind,
        resume_args=[*resume_args],
    )
    return plan, place.backend


def trace(plan: Plan, keys: Iterable[str]) -> dict[str, str]:
    """Find where each value of a plan's spec comes from.

    Args:
        plan: The plan that :func:`prepare` returned.
        keys: Dotted keys of the spec as its parser understands it.

    Returns:
        For each key a config file's path, ``command line``, the same with the launcher's flag that
        sets it, or ``default``.
    """
    words = [word.partition("=") for word in plan.own_words]
    origins = [_show_path(Path(value)) for flag, _, value in words if flag == "--config"]
    for argument in plan.arguments[2 * len(origins) :]:
        key = argument.partition("=")[0].rpartition(".")[2]
        is_typed = argument in plan.words
        origins.append("command line" if is_typed else f"command line ({_FLAGS_OF_KEYS[key]})")
    return find_origins(keys, plan.arguments, origins)


def flag_words(
    flags: Flags, storage_root: str | None, settings: Mapping[str, tuple[str, object]]
) -> list[str]:
    """Write the launcher's flags as they would be typed."""
    values: dict[str, object] = {
        "--nodes": flags.nodes,
        "--gpus-per-node": flags.gpus_per_node,
        "--workers-per-node": flags.workers_per_node,
        "--name": flags.name,
        "--storage-root": storage_root,
    }
    kept = [flag for key, flag in settings.items() if key.startswith(_SETTINGS_OF_NODES)]
    given = [(flag, value) for flag, value in [*values.items(), *kept] if value is not None]
    words = [(flag, each) for flag, value in given for each in _each(value)]
    return [flag if value is False else f"{flag}={value}" for flag, value in words]


def _each(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _of_spec(
    config: Sequence[str], overrides: Sequence[tuple[str, str]], flags: Flags
) -> _Training:
    """Read a spec, with the launcher's flags as its last overrides."""
    arguments = read_spec(config, overrides)
    arguments += spell_flags(flags, read_trainer(arguments[2 * len(config) :]))
    return _Training(read_trainer(arguments), DEFAULT_NAME, arguments=arguments)


def spell_flags(flags: Flags, typed: Mapping[str, object]) -> list[str]:
    """Write the launcher's flags as overrides of a spec.

    Args:
        flags: The launcher's flags on this command line.
        typed: The Trainer's keys that the command line sets, without ``trainer.``.

    Raises:
        SpecError: If both say something else, or a flag is only for scripts.
    """
    if flags.workers_per_node is not None:
        raise SpecError(
            "--workers-per-node is only for scripts; a spec sets trainer.devices.",
            f"--trainer.devices={flags.workers_per_node}",
        )
    arguments = []
    for key, value in flags.trainer.items():
        if key in typed and str(typed[key]) not in (str(value), "auto"):
            raise SpecError(
                f"{_FLAGS_OF_KEYS[key]} sets trainer.{key}={value!r}, "
                f"but --trainer.{key}={typed[key]!r} is given too.",
                "Keep one of the two.",
            )
        arguments.append(f"--trainer.{key}={value}")
    return arguments


def _of_program(
    typed: Sequence[str], flags: Flags, place: "ClusterConfig", directory: str
) -> _Training:
    """Check a program; its Trainer cannot be read, so the flags stand for it."""
    check_workers(flags)
    site = Place.of(place.backend, place.env_vars)
    program = read_program(typed, directory, is_here=not site.other_environment)
    trainer = {"num_nodes": 1, **flags.trainer}
    if not flags.gpus_per_node and flags.workers_per_node is not None:
        trainer["devices"] = flags.workers_per_node
    return _Training(trainer, program.default_name, program=program)


def check_workers(flags: Flags) -> None:
    """Check that a script's workers are as many as its GPUs, if both are given.

    Raises:
        SpecError: If they are not.
    """
    gpus, workers = flags.gpus_per_node, flags.workers_per_node
    if gpus and workers not in (None, gpus):
        raise SpecError(
            f"--workers-per-node {workers} contradicts --gpus-per-node {gpus}.",
            f"Each GPU has one worker: leave out --workers-per-node {workers}",
        )


def _check_name(value: object) -> str:
    """Return the name of a run, which is that of one directory."""
    name = str(value)
    if "/" in name or name in (".", ".."):
        raise SpecError(
            f'experiment_name={name!r}: a name must not contain "/", nor be "." or "..".',
            "For example: --name pusht_act_v1",
        )
    return check_name("experiment_name", name)


def _show_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
