"""Options of sbatch and srun that users may set: how to write them, and which ones are refused."""

import re
from collections.abc import Mapping
from pathlib import Path

from getiaction_launch.backends.flag import settings_of
from getiaction_launch.backends.slurm.settings import SlurmSettings, Value
from getiaction_launch.errors import CheckError, ClusterConfigError
from getiaction_launch.plan.text import check_name
from getiaction_launch.storage.variables import refuse_variable

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNUSABLE = re.compile(r"[%\\\x00-\x1f\x7f]")
_OWN_FLAG = "Use the launcher's own flag: "
_GEOMETRY = (
    "Set nodes and devices once, by --nodes, --gpus-per-node or --trainer.devices; SLURM and the "
    "Trainer both follow."
)
_OUTPUT = "Set job_dir in the cluster config; to see a run's output: getiaction-launch logs RUN"
_FORWARD = "Name the variables in forward_env_vars of the cluster config."
_REQUEUE = (
    "The launcher requeues jobs itself. Set restarts in the cluster config, or "
    "--max-interruptions, --max-node-failures or --max-crashes."
)
_BY_BOTH = {
    # A setting's long flag has the name of sbatch's own option.
    **{
        setting.flag.name[2:]: _OWN_FLAG + setting.flag.names[0]
        for setting in settings_of(SlurmSettings)
        if not setting.flag.repeats
    },
    "array": "Use --sweep, which submits an array.",
    "chdir": "A job runs in the directory in which you type the command.",
    "cpus-per-gpu": _OWN_FLAG + "-c",
    "error": _OUTPUT,
    "export": _FORWARD,
    "export-file": _FORWARD,
    "gpus": _GEOMETRY,
    "gpus-per-node": _GEOMETRY,
    "gpus-per-socket": _GEOMETRY,
    "gpus-per-task": _GEOMETRY,
    "input": "Jobs have no standard input.",
    "job-name": "Use --name, which names the run and its job.",
    "no-requeue": _REQUEUE,
    "nodes": _GEOMETRY,
    "ntasks": _GEOMETRY,
    "ntasks-per-core": _GEOMETRY,
    "ntasks-per-gpu": _GEOMETRY,
    "ntasks-per-node": _GEOMETRY,
    "ntasks-per-socket": _GEOMETRY,
    "open-mode": "The logs of all attempts are kept.",
    "output": _OUTPUT,
    "parsable": _OWN_FLAG + "--parsable",
    "requeue": _REQUEUE,
    "signal": "Set warning_seconds in the cluster config.",
    "test-only": "Check without submitting: getiaction-launch check ...",
    "wait": _OWN_FLAG + "--wait",
    "wrap": "Name a script: getiaction-launch train.py",
}
_BY_SRUN = {
    "kill-on-bad-exit": "A node that fails always ends the others.",
    "multi-prog": "All nodes run the same program.",
    "pty": "To see a run's output: getiaction-launch logs -f RUN",
    "wait": "Nodes that have finished always wait for the others.",
}


def spell(options: Mapping[str, Value]) -> dict[str, str | bool]:
    """Spell options as SLURM does.

    Args:
        options: Values by option, without dashes in front. An empty value or ``true`` makes a
            switch, and ``false`` leaves an option out.

    Returns:
        Values by option; True for a switch.
    """
    return {
        key.replace("_", "-"): True if value is None or value is True else str(value) or True
        for key, value in options.items()
        if value is not False
    }


def refuse_contradictions(command: str, options: Mapping[str, Value]) -> None:
    """Refuse options that contradict what the launcher sets itself.

    Args:
        command: The command that takes the options: ``sbatch`` or ``srun``.
        options: Values by option, without dashes in front.

    Raises:
        ClusterConfigError: If the launcher sets an option itself; the message says how.
    """
    refused = _BY_BOTH | (_BY_SRUN if command == "srun" else {})
    for typed, value in options.items():
        key = typed.lstrip("-").replace("_", "-")
        # sbatch accepts a long option by its first letters.
        meant = key if key in refused else next((k for k in refused if k.startswith(key)), None)
        if key == "gres" and "gpu" in str(value):
            meant = "gpus"
        if len(key) == 1:
            raise ClusterConfigError(
                f"--{command} {typed}={value}: one-letter options are not supported.",
                f"Write it in full, as in {command}'s manual: man {command}",
            )
        if meant is not None:
            raise ClusterConfigError(
                f"--{command} {typed}={value}: {command} --{meant} cannot be set here.",
                refused[meant],
            )
        if typed.startswith("-"):
            given = "true" if value is None or value is True else value
            raise ClusterConfigError(
                f"{command}: {{{typed}: {given}}}: options of {command} are written without dashes "
                "here.",
                f"{command}: {{{key}: {given}}}",
            )


def escape(values: Mapping[str, object]) -> dict[str, object]:
    """Escape values for a script's header, where a backslash is an escape even between quotes.

    Args:
        values: Values by option, as they are meant.

    Raises:
        CheckError: If a value has control characters; the end of a line would end the option.
    """
    for key, value in values.items():
        if isinstance(value, str) and _CONTROL.search(value):
            raise CheckError(
                f"--{key.replace('_', '-')} {value!r}: sbatch cannot read control characters.",
                "Remove them, or rename what has this name.",
            )
    return {k: v.replace("\\", r"\\") if isinstance(v, str) else v for k, v in values.items()}


def check_log_directory(directory: Path, typed: str | None) -> None:
    """Check that SLURM and submitit can write logs there.

    Both replace patterns such as ``%j`` anywhere in a path, and SLURM removes backslashes.

    Args:
        directory: Where the run's job directory will lie.
        typed: The user's ``job_dir``, if it is below that; a run's name may have a dollar sign.

    Raises:
        CheckError: If the path has such characters.
        SpecError: If a shell would have to expand a variable in what the user has typed.
    """
    refuse_variable("job_dir", "job_dir: ", typed or "")
    if "://" in (typed or ""):
        raise CheckError(
            f"job_dir: {typed} is object storage, and SLURM writes the logs of jobs to files.",
            "Choose a directory that all nodes share: job_dir: ~/slurm_jobs; what may lie there is "
            f"the run itself: storage_root: {typed}",
        )
    if found := _UNUSABLE.search(str(directory)):
        raise CheckError(
            f"{str(directory)!r}: SLURM cannot write its logs to a path with {found[0]!r}.",
            "Choose another directory for them in the cluster config, on a file system that all "
            "nodes share: job_dir: ~/slurm_jobs",
        )


def plain_name(name: str) -> str:
    """Replace the characters that a log's path cannot have in SLURM."""
    return _UNUSABLE.sub("_", name)


def refuse_control_characters(settings: SlurmSettings) -> None:
    """Refuse a newline in a setting: it would begin another line of the batch script.

    Args:
        settings: All settings; only the lines of ``setup`` may contain any character.

    Raises:
        SpecError: If one of the texts has a control character.
    """
    for name, value in vars(settings).items():
        for key, text in value.items() if isinstance(value, Mapping) else [("", value)]:
            where = f"{name}.{key}" if key else name
            if isinstance(text, str):
                check_name(where, text)
            check_name(f"a key of {name}", str(key))


def step_flags(options: Mapping[str, Value]) -> list[str]:
    """Spell options as arguments of srun.

    Args:
        options: Values by option, as the user has set them.
    """
    spelled = spell(options).items()
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in spelled]
