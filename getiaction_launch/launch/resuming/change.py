"""Changes what a run's next attempts do: another cluster, another geometry, longer training.

The run stays in its directory, and its weights and optimizers come from its checkpoint. So only
what fits these may change: where it runs, how long it trains, what it watches and logs. What would
make another training of it is refused, or said. A new version of the run may train anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from getiaction_launch.backends.backend import Backend, record_of
from getiaction_launch.checking.addresses import refuse_secret_urls
from getiaction_launch.errors import SpecError, UsageError, counted
from getiaction_launch.launch.prepare import Flags, check_workers, flag_words, spell_flags
from getiaction_launch.launch.status import backend_of
from getiaction_launch.plan.notify import forwarded
from getiaction_launch.plan.plan import Plan, Restarts, Topology, read_topology
from getiaction_launch.plan.spec import TRAINER_KEYS, read_spec, read_trainer
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import use_options

if TYPE_CHECKING:
    from getiaction_launch.launch.freezing.files import Files

LIMITS = ("max_epochs", "max_steps", "max_time")
"""The Trainer's keys that end training."""
_SILENT = (
    *(*LIMITS, "min_epochs", "min_steps", "limit_val_batches", "limit_train_batches", "callbacks"),
    *("limit_test_batches", "limit_predict_batches", "val_check_interval", "logger", "profiler"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "detect_anomaly"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode"),
    *("num_nodes", "devices", "accelerator", "plugins", "enable_autolog_hparams"),
)
"""The Trainer's keys that change nothing of what was trained so far, nor how it is trained."""
_SPEED = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "val_batch_size")
"""Arguments of datamodules that usually change no training batch."""
_OF_PLACE = {
    "trainer.experiment_name": "the new version is beside the run",
    "trainer.default_root_dir": "the new version is beside the run",
}
_OF_RUN = {
    **dict.fromkeys(_OF_PLACE, "the run stays in its directory"),
    "ckpt_path": "the run resumes from its own checkpoint",
    "weights_only": "the run resumes from its own checkpoint",
    "seed_everything": "random numbers continue from the checkpoint",
}
_OF_CHECKPOINT = ("model", "optimizer", "lr_scheduler")


@dataclass(frozen=True)
class Changes:
    """What shall be different in the next attempts of a run; nothing by default.

    Attributes:
        cluster: Name or path of the cluster config to resume on; None for where the run was.
        nodes: How many nodes to use.
        gpus_per_node: How many GPUs to use on each node; 0 for CPU.
        workers_per_node: How many workers a script starts on each node of CPUs.
        overrides: Dotted keys of the spec and their YAML values.
        settings: For each key of the cluster config to replace: the flag that sets it, for error
            messages, and the value.
        is_code_now: Whether to train the user's files as they are now, and not the copy of them
            that was made at submission.
    """

    cluster: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    workers_per_node: int | None = None
    overrides: Sequence[tuple[str, str]] = ()
    settings: Mapping[str, tuple[str, object]] = field(default_factory=dict)
    is_code_now: bool = False

    @property
    def raises_limit(self) -> bool:
        """Whether one of the limits that end training is set."""
        return any(key.removeprefix("trainer.") in LIMITS for key, _ in self.overrides)

    @property
    def flags(self) -> Flags:
        """The launcher's flags that stand for the Trainer's own keys."""
        return Flags(self.nodes, self.gpus_per_node, self.workers_per_node, None)


@dataclass(frozen=True)
class Changed:
    """How a run continues.

    Attributes:
        before: The plan of the attempts so far.
        plan: The plan of the next attempts.
        backend: The backend that starts them.
        notes: What is different, for people, a sentence each; empty if nothing is.
        warnings: What makes the results differ from those of an undisturbed run.
        files: The user's present files, to be copied for it; None if it keeps its copy.
    """

    before: Plan
    plan: Plan
    backend: Backend
    notes: list[str]
    warnings: list[str]
    files: "Files | None" = None


def change(run: Run, changes: Changes, *, is_new: bool = False) -> Changed:
    """Decide how a run continues, without starting or writing anything.

    Args:
        run: The run to continue.
        changes: What shall be different.
        is_new: Whether it is for another run, which may train anything.

    Raises:
        LaunchError: If that does not fit the run.
    """
    from getiaction_launch.launch.cluster import (  # slow to import
        ClusterConfig,
        find_cluster,
        override,
        read_cluster,
    )
    from getiaction_launch.launch.freezing.freeze import describe_again, has_changed
    from getiaction_launch.mirror.code import check_code

    plan, record = Plan.of(run), JobRecord.read(run) or JobRecord()
    files: Files | None = None
    after, added = plan, []
    former = backend_of(run, record)
    if changes.cluster:
        path = find_cluster(changes.cluster)
        place = read_cluster(path, changes.settings)
        place.refuse_ssh(changes.cluster)
        use_options(plan.root, place.storage_options)
        after = replace(
            plan,
            env_vars=place.env_vars,
            forward_env_vars=place.forward_env_vars,
            saving=place.saving,
            snapshot=place.snapshot,
            uploading=place.uploading,
            log_limit_mb=place.log_limit_mb,
        )
        added = [f"--cluster={path.absolute()}"]
    else:
        place = ClusterConfig(former, restarts=plan.restarts, notify=plan.notify)
        if changes.settings:
            place = override(Path(_label(former)), place, changes.settings)
    refuse_secret_urls(place.notify)
    backend = place.backend.resolve_runs(plan.root)
    after = _trained(after, backend, changes, is_new=is_new)
    directory = backend.working_directory() or plan.working_directory
    added += flag_words(changes.flags, None, changes.settings)
    added += [f"--{key}={value}" for key, value in changes.overrides]
    after = replace(
        after,
        restarts=_restarts(plan, place.restarts, changes),
        forward_env_vars=forwarded(after.forward_env_vars, place.notify),
        notify=place.notify,
        working_directory=str(directory),
        words=_replaced(plan, added) if plan.words else [],
    )
    since = "" if is_new else " from here on"
    notes = [f"{key} is {text}{since}." for key, text in changes.overrides]
    if changes.is_code_now:
        after, files = describe_again(after)
        title = after.code.title if after.code else ""
        notes.insert(0, f"it trains your present files{since}{title and f': {title}'}.")
    else:
        check_code(run, plan, "rerun" if is_new else "resume")
        if has_changed(plan):
            notes.append(
                "your files have changed since its submission; it trains the copy of then. To "
                "train the present ones: --code now"
            )
    if after.notify != plan.notify:
        notes.append(f"messages go to {', '.join(after.notify) or 'nobody'}{since}.")
    if _label(backend) != _label(former):
        notes.insert(0, f"it runs on {_label(backend)}{since}.")
    warnings = [*_geometry(plan.topology, after.topology, plan), *_warn(changes.overrides)]
    return Changed(plan, after, backend, notes, [] if is_new else warnings, files)


def _trained(plan: Plan, backend: Backend, changes: Changes, *, is_new: bool) -> Plan:
    """Return the plan with another spec or other workers."""
    keys = {key.removeprefix("trainer.") for key, _ in changes.overrides}
    is_geometry = bool(changes.flags.trainer or changes.workers_per_node or keys & {*TRAINER_KEYS})
    if plan.script:
        if changes.overrides:
            raise SpecError(
                f"--{changes.overrides[0][0]} is a key of a spec, but this run trains a script, "
                "which keeps its own arguments.",
                "To change them, start another run: getiaction-launch train.py ...",
            )
        check_workers(changes.flags)
        return replace(plan, topology=_of_script(plan.topology, changes)) if is_geometry else plan
    if is_new:
        _refuse(changes.overrides, _OF_PLACE, "rerun")
    else:
        _check_keys(changes.overrides)
    added = read_spec([], changes.overrides)
    added += spell_flags(changes.flags, read_trainer(added))
    arguments = [*plan.arguments, *added]
    topology = plan.topology
    if is_geometry or changes.cluster:
        topology = read_topology(read_trainer(arguments), backend.free_gpus)
    return replace(plan, arguments=arguments, topology=topology)


def _of_script(before: Topology, changes: Changes) -> Topology:
    """Return the topology of a script, whose Trainer cannot be read."""
    gpus, workers = changes.gpus_per_node, changes.workers_per_node
    num_nodes = changes.nodes or before.num_nodes
    if gpus:
        return Topology(num_nodes, gpus, gpus)
    has_gpus = before.gpus_per_node and gpus is None and workers is None
    workers = workers or before.workers_per_node
    return Topology(num_nodes, workers, workers if has_gpus else 0)


def _check_keys(overrides: Iterable[tuple[str, str]]) -> None:
    """Refuse what the run's directory or its checkpoint decides.

    Raises:
        UsageError: Naming the first such key.
    """
    _refuse(overrides, _OF_RUN, "resume")
    for key, text in overrides:
        section = key.rstrip("+").partition(".")[0]
        if section in _OF_CHECKPOINT:
            raise UsageError(
                f"--{key}={text}: resume cannot change the {section}, whose state comes from the "
                "checkpoint.",
                "To train from these weights with another setting, start another run with "
                "--ckpt_path=CHECKPOINT",
            )


def _refuse(overrides: Iterable[tuple[str, str]], fixed: Mapping[str, str], verb: str) -> None:
    for key, text in overrides:
        if why := fixed.get(key.rstrip("+")):
            raise UsageError(
                f"--{key}={text}: {verb} cannot change it, as {why}.",
                f"Leave out --{key}, or start another run: getiaction-launch --config ...",
            )


def _warn(overrides: Iterable[tuple[str, str]]) -> list[str]:
    """Say which keys change what is trained."""
    loud = []
    for key, text in overrides:
        section, _, name = key.rstrip("+").partition(".")
        is_silent = section == "trainer" and name.partition(".")[0] in _SILENT
        is_speed = section == "data" and name.rpartition(".")[2] in _SPEED
        if not is_silent and not is_speed:
            loud.append(
                f"--{key}={text} changes what is trained from here on: the result is not that of "
                "an undisturbed run with either value."
            )
    return loud


def _geometry(before: Topology, after: Topology, plan: Plan) -> list[str]:
    """Say what another number of workers means."""
    if bool(before.gpus_per_node) != bool(after.gpus_per_node):
        where = "GPUs instead of CPUs" if after.gpus_per_node else "CPUs instead of GPUs"
        return [f"it trains on {where}, which round differently.", *_workers(before, after, plan)]
    return _workers(before, after, plan)


def _workers(before: Topology, after: Topology, plan: Plan) -> list[str]:
    old, new = before.world_size, after.world_size
    if old == new:
        return []
    what = (
        f"it continues with {counted(new, 'worker')} instead of {old}. Weights and learning rate "
        "stay the same, but the samples come in another order, and with the same batch size of a "
        f"worker each step reads {new / old:.3g} times as many."
    )
    if plan.script:
        return [f"{what} The log of rank 0 says how its data loader continues the epoch."]
    own = "getiaction's loader still reads each sample of the interrupted epoch once"
    return [f"{what} {own}; the log of rank 0 says what another loader does."]


def _restarts(plan: Plan, of_cluster: Restarts, changes: Changes) -> Restarts:
    """Return the restart budgets: those that were typed for this run win over the cluster's."""
    if not any(word.startswith("--max-") for word in plan.own_words):
        return of_cluster
    group = "restarts."
    typed: dict[str, Any] = {
        key.removeprefix(group): value
        for key, (_, value) in changes.settings.items()
        if key.startswith(group)
    }
    return replace(plan.restarts, **typed)


def _replaced(plan: Plan, words: Sequence[str]) -> list[str]:
    """Return the words of a plan with others added, in place of those for the same flags."""
    flags = {word.partition("=")[0] for word in words if "." not in word.partition("=")[0]}
    kept = [word for word in plan.own_words if word.partition("=")[0] not in flags]
    return [*kept, *words, *plan.program_words]


def _label(backend: Backend) -> str:
    """Return what people call a backend: ``slurm``."""
    return label(record_of(backend).class_path)


def label(class_path: str) -> str:
    """Return what people call the backend of a class path: ``ray on slurm``."""
    name = class_path.rpartition(".")[2].removesuffix("Backend")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
