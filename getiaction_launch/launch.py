"""Prepare, submit, attach: the same door for the command line and for notebooks."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from getiaction_launch.attempt import read_attempts, reopen
from getiaction_launch.backend import Backend
from getiaction_launch.errors import CheckError, LaunchError, SpecError
from getiaction_launch.plan import DEFAULT_NAME, DEFAULT_ROOT, Plan, Topology, read_topology
from getiaction_launch.probe import check_root, make_root
from getiaction_launch.run import Run
from getiaction_launch.spec import Spec, parse, read_spec
from getiaction_launch.state import JobState
from getiaction_launch.status import (
    RunStatus,
    attach,
    backend_of,
    read_status,
    read_statuses,
    wait,
)
from getiaction_launch.storage import create, is_remote, remove, resolve_root, use_options

__all__ = [
    "RunStatus",
    "attach",
    "cancel",
    "check",
    "prepare",
    "read_status",
    "read_statuses",
    "resume",
    "submit",
    "submit_sweep",
    "wait",
]

_OF_THE_RUN = ("max_", "backend.init_args.cpus_per_worker", "backend.init_args.memory_mb")
POLL_SECONDS = 0.1
LOCK_SECONDS = 180  # longer than a scheduler may take to answer
START_SECONDS = 2  # a job that has not begun by then waits in a queue


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
    from getiaction_launch.cluster import find_cluster, read_cluster

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
    root = resolve_root(root, storage_root or place.storage_root or str(Path.cwd()))
    use_options(root, place.storage_options)
    plan = Plan(
        name=name,
        root=root,
        arguments=spec.arguments,
        script=list(script),
        words=words,
        topology=read_topology(trainer, free_gpus or place.backend.free_gpus),
        working_directory=getattr(place.backend, "working_directory", None) or str(Path.cwd()),
        env_vars=place.env_vars,
        forward_env_vars=place.forward_env_vars,
        checkpoint_period_minutes=place.checkpoint_period_minutes,
        checkpoint_when_busy=place.checkpoint_when_busy,
        checkpoint_failure_limit_minutes=place.checkpoint_failure_limit_minutes,
        upload_period_seconds=place.upload_period_seconds,
        upload_limit_minutes=place.upload_limit_minutes,
        budgets={
            "crashes": place.max_crashes,
            "node_failures": place.max_node_failures,
            "interruptions": place.max_interruptions,
        },
        sweep=dict(sweep or {}),
        spec=spec.view,
        origins=spec.origins,
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

    Returns when the spec has been judged: by the run's own workers where they start at once,
    else here, while the job is queued.

    Raises:
        LaunchError: If the plan cannot be carried out; then, as after Ctrl-C, no run directory
            is left behind.
    """
    check(plan, backend, also_spec=False)
    (run,) = _start([plan], backend, None)
    try:
        if plan.arguments:
            _await_verdict(run, plan, backend)
    except (LaunchError, KeyboardInterrupt):
        _take_back([run])
        raise
    return run


def submit_sweep(plans: Sequence[Plan], backend: Backend, max_parallel: int | None) -> list[Run]:
    """Check every point of a sweep, claim a run directory for each and start them.

    Args:
        plans: One for each point.
        backend: Where.
        max_parallel: How many may run at a time; None for one on this machine, all on SLURM.

    Raises:
        LaunchError: As :func:`submit`; then nothing of the sweep is started.
    """
    checked: set[Topology] = set()
    for plan in plans:
        if plan.topology not in checked:
            check(plan, backend, also_spec=False)
        checked.add(plan.topology)
        if plan.arguments:
            parse(plan.arguments)
    return _start(plans, backend, max_parallel)


def _start(plans: Sequence[Plan], backend: Backend, max_parallel: int | None) -> list[Run]:
    runs: list[Run] = []
    try:
        for plan in plans:
            make_root(plan.root)
            runs.append(Run.claim(plan.root, plan.name))
            runs[-1].write("plan", plan.to_json())
        backend.submit(runs, max_parallel)
    except (LaunchError, KeyboardInterrupt):
        _take_back(runs)
        raise
    return runs


def _take_back(runs: Sequence[Run]) -> None:
    for run in runs:
        if error := _cancel_error(run):
            # Its job may still come, and must find its own plan there.
            sys.stderr.write(f"{run.directory} is kept, its job may still come: {error}\n")
        else:
            run.discard()


def _cancel_error(run: Run) -> LaunchError | None:
    try:
        cancel(run)
    except LaunchError as error:
        return error
    return None


def resume(run: Run) -> None:
    """Start another attempt of a run that has ended before its training had.

    It goes on in the same directory, from the newest committed checkpoint.

    Raises:
        LaunchError: If it has not ended, has finished, or cannot be started from here.
    """
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as stack:
        try:
            # Of a run on remote storage, the lock is this machine's.
            run.make_log_directory(0)
            lock = FileLock(run.local.launch_directory / "resume.lock", timeout=LOCK_SECONDS)
            stack.enter_context(lock)
        except Timeout:
            raise CheckError(
                f"somebody has been resuming run {run.name} for {LOCK_SECONDS} s.",
                f"See what came of it: getiaction-launch status {run.directory}",
            ) from None
        check_resumable(run)
        record = run.read("job") or {}
        if "step_id" in record:
            raise CheckError(
                f"run {run.name} was started inside a batch script, and goes on inside of one.",
                f"srun --ntasks-per-node=1 getiaction-launch node {run.directory}",
            )
        backend = backend_of(run, record)
        check(Plan.of(run), backend, also_spec=False)
        claim = _claim_resume(run, record) if is_remote(run.directory) else None
        last = reopen(run)
        try:
            backend.submit([run], None)
        except (LaunchError, KeyboardInterrupt):
            if last:
                run.write(f"attempt_{last['number']}", last)
            if claim:
                remove(claim)
            raise


def _claim_resume(run: Run, record: Mapping[str, Any]) -> Path:
    """Let one of all machines follow the run's last job.

    Raises:
        CheckError: If another has.
    """
    claim = run.launch_directory / f"job_after_{record.get('job_id')}"
    if not create(claim):
        raise CheckError(
            f"run {run.name} was resumed by somebody else a moment ago.",
            f"See what came of it: getiaction-launch status {run.directory}\n"
            f"If nothing did, let another try: aws s3 rm {claim}",
        )
    return claim


def check_resumable(run: Run) -> None:
    """Raise CheckError unless the run has ended before its training had."""
    status = read_status(run)
    if status.state is JobState.SUCCEEDED:
        raise CheckError(f"run {run.name} has finished; there is nothing to resume.")
    if not status.state.is_over:
        raise CheckError(
            f"run {run.name} is {status.state.value}; it cannot be resumed while it may run.",
            f"End it first: getiaction-launch cancel {run.directory}",
        )


def check(plan: Plan, backend: Backend, *, also_spec: bool) -> None:
    """Raise LaunchError for all that can be known before the run waits in a queue.

    Args:
        plan: What was decided.
        backend: Where it would run.
        also_spec: Whether to judge the spec here, which imports torch and Lightning; the
            workers of a run do it anyway.
    """
    missing = [name for name in plan.forward_env_vars or () if name not in os.environ]
    if missing:
        raise CheckError(
            f"forward_env_vars names {missing[0]}, which is not set in this shell.",
            f"export {missing[0]}=..., or take it out of the cluster config.",
        )
    backend.check(plan)
    check_root(plan.root)
    if plan.arguments and also_spec:
        parse(plan.arguments)


def _await_verdict(run: Run, plan: Plan, backend: Backend) -> None:
    submitted_at = time.monotonic()
    start_seconds = getattr(backend, "start_seconds", START_SECONDS)
    while not run.read("progress"):
        state = read_status(run).state
        if state.is_over:
            error = run.first_error(0)
            if error and error.type == SpecError.__name__:
                raise SpecError(*error.message.split("\n", 1))
            return
        is_late = time.monotonic() - submitted_at > start_seconds or run.read("placement")
        if is_late and state is JobState.PENDING and not read_attempts(run):
            parse(plan.arguments)
            return
        time.sleep(POLL_SECONDS)


def cancel(run: Run) -> RunStatus:
    """End a run everywhere; nothing of it runs any more when this returns.

    Raises:
        UnreachableError: If that cannot be done from here.
    """
    if job := attach(run):
        job.cancel()
    return read_status(run)
