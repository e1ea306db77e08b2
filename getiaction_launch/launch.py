"""Prepare, submit, attach: the same door for the command line and for notebooks."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from getiaction_launch.backend import Backend, Job, JobState
from getiaction_launch.errors import LaunchError, SpecError, UnreachableError
from getiaction_launch.plan import DEFAULT_NAME, DEFAULT_ROOT, Plan, read_topology
from getiaction_launch.run import Run
from getiaction_launch.spec import Spec, parse, read_spec
from getiaction_launch.storage import check_root, make_root, resolve_root

POLL_SECONDS = 0.1
WATCH_SECONDS = 0.5  # a watcher must not take CPU from training on the same machine


@dataclass(frozen=True)
class RunStatus:
    """A run, as whoever reaches its directory sees it.

    Attributes:
        run: Which.
        state: Where it stands.
        reason: Why, in the worker's or the scheduler's words.
        progress: What its worker of rank 0 last told: ``phase``, ``epoch``, ``step``,
            ``total_steps``, ``seconds_per_step``, ``metrics``; empty before it starts.
    """

    run: Run
    state: JobState
    reason: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)


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

    Raises:
        LaunchError: If something in it is wrong.
    """
    from getiaction_launch.cluster import find_cluster, read_cluster

    settings = read_cluster(find_cluster(cluster))
    if bool(script) == bool(config or overrides):
        raise SpecError(
            "give a spec or a script, and not both.",
            "getiaction-launch --config act.yaml   or   getiaction-launch train.py --lr 3e-4",
        )
    if script:
        spec = Spec()
        script = _check_script(script)
        trainer = _describe_script(nodes, gpus_per_node, workers_per_node)
        name = name or Path(script[0]).stem
    else:
        if workers_per_node is not None:
            raise SpecError(
                "--workers-per-node is for scripts; a spec says it itself.",
                f"--trainer.devices={workers_per_node}",
            )
        spec = read_spec(config, overrides)
        _apply_flags(spec, nodes, gpus_per_node, name)
        trainer = spec.trainer
        name = str(trainer.get("experiment_name") or DEFAULT_NAME)
    if "/" in name or name in (".", ".."):
        raise SpecError(f"experiment_name={name!r} is no plain name.", "e.g. --name pusht_act_v1")
    root = str(trainer.get("default_root_dir") or DEFAULT_ROOT)
    plan = Plan(
        name=name,
        root=resolve_root(root, storage_root or settings.storage_root or str(Path.cwd())),
        arguments=spec.arguments,
        script=list(script),
        topology=read_topology(trainer, settings.backend.free_gpus),
        working_directory=str(Path.cwd()),
        env_vars=settings.env_vars,
        spec=spec.view,
        origins=spec.origins,
    )
    return plan, settings.backend


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


def _apply_flags(
    spec: Spec, nodes: int | None, gpus_per_node: int | None, name: str | None
) -> None:
    """Nodes, devices and name live in the Trainer's own words; the launcher's flags set those."""
    flags: dict[str, tuple[str, Any]] = {}
    if nodes is not None:
        flags["num_nodes"] = ("--nodes", nodes)
    if name is not None:
        flags["experiment_name"] = ("--name", name)
    if gpus_per_node is not None:
        flags["accelerator"] = ("--gpus-per-node", "gpu" if gpus_per_node else "cpu")
    if gpus_per_node:
        flags["devices"] = ("--gpus-per-node", gpus_per_node)
    for key, (flag, value) in flags.items():
        known = spec.trainer.get(key)
        is_typed = spec.origins.get(f"trainer.{key}") == "command line"
        if is_typed and str(known) not in (str(value), "auto"):
            raise SpecError(
                f"{flag} makes trainer.{key}={value!r}, "
                f"but --trainer.{key}={known!r} is given too.",
                "Keep one of the two.",
            )
        spec.override(f"trainer.{key}", str(value), f"command line ({flag})")


def submit(plan: Plan, backend: Backend) -> Run:
    """Check ``plan``, claim its run directory and start it.

    Where runs start at once, this returns when the spec has been judged and the objects are
    being built; elsewhere when the scheduler has taken the job.

    Raises:
        LaunchError: If the plan cannot be carried out; then, as after Ctrl-C, no run directory
            is left behind.
    """
    check(plan, backend, also_spec=not backend.starts_at_once)
    make_root(plan.root)
    run = Run.claim(plan.root, plan.name)
    try:
        run.write("plan", plan.to_json())
        backend.submit(run)
        if backend.starts_at_once and plan.arguments:
            _await_start(run)
    except LaunchError:
        run.discard()
        raise
    except KeyboardInterrupt:
        cancel(run)
        run.discard()
        raise
    return run


def check(plan: Plan, backend: Backend, *, also_spec: bool) -> None:
    """Raise LaunchError for all that can be known before the run waits in a queue.

    Args:
        plan: What was decided.
        backend: Where it would run.
        also_spec: Whether to judge the spec here, which imports torch and Lightning; the
            workers of a run that starts at once do it anyway.
    """
    backend.check(plan)
    check_root(plan.root)
    if plan.arguments and also_spec:
        parse(plan.arguments)


def _await_start(run: Run) -> None:
    while not run.read("progress"):
        if read_status(run).state.is_over:
            error = run.first_error(0)
            if error and error.type == SpecError.__name__:
                raise SpecError(*error.message.split("\n", 1))
            return
        time.sleep(POLL_SECONDS)


def attach(run: Run) -> Job | None:
    """Find the job of a run that any shell submitted; None if it was never submitted.

    Raises:
        UnreachableError: If the record of the job is not to be understood here.
    """
    try:
        record = run.read("job")
        if record is None:
            return None
        module, _, name = record["backend"]["class_path"].rpartition(".")
        backend: Backend = getattr(importlib.import_module(module), name)(
            **record["backend"]["init_args"]
        )
        return backend.attach(run, record)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, OSError) as error:
        raise UnreachableError(
            f"{run.launch_directory / 'job.json'} cannot be understood: {error!r}.",
            "Was it written by another version of getiaction-launch?",
        ) from error


def read_status(run: Run) -> RunStatus:
    """Ask the run's directory, then its job. Only ``done.json`` means success."""
    try:
        job = attach(run)
        told = job.status() if job else None
        progress = run.read("progress") or {}
        if told is None:
            return RunStatus(run, JobState.PENDING, "it was not submitted yet", progress)
        # A job that has ended before it was asked has written done.json before that.
        done = run.read("done") if told.state.is_over else None
    except (UnreachableError, ValueError, KeyError, OSError) as error:
        # One damaged run must not hide the others from `ls`.
        return RunStatus(run, JobState.UNKNOWN, f"its records cannot be read: {error}")
    if done:
        return RunStatus(run, JobState.SUCCEEDED, progress=done)
    state = JobState.FAILED if told.state is JobState.SUCCEEDED else told.state
    return RunStatus(run, state, told.reason, progress)


def wait(run: Run, watch: Callable[[RunStatus], None]) -> RunStatus:
    """Wait for the end of a run, showing each look at it to ``watch``."""
    while True:
        status = read_status(run)
        watch(status)
        if status.state.is_over:
            return status
        time.sleep(WATCH_SECONDS)


def cancel(run: Run) -> RunStatus:
    """End a run everywhere; nothing of it runs any more when this returns.

    Raises:
        UnreachableError: If that cannot be done from here.
    """
    if job := attach(run):
        job.cancel()
    return read_status(run)
