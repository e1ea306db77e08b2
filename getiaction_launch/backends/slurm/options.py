"""Options of sbatch and srun that users name: how they are written, and which are refused."""

from collections.abc import Mapping

from getiaction_launch.backends.flag import settings_of
from getiaction_launch.backends.slurm.settings import SlurmSettings, Value
from getiaction_launch.errors import ClusterConfigError

_OWN_FLAG = "the launcher has a flag for it: "
_GEOMETRY = (
    "set nodes and devices once, by --nodes, --gpus-per-node or --trainer.devices; SLURM and the "
    "Trainer both follow"
)
_BY_BOTH = {
    # A setting's long flag is sbatch's own name of it.
    **{
        setting.flag.name[2:]: _OWN_FLAG + setting.flag.names[0]
        for setting in settings_of(SlurmSettings)
        if not setting.flag.repeats
    },
    "array": "--sweep makes arrays",
    "chdir": "the job runs where you type the command",
    "cpus-per-gpu": _OWN_FLAG + "-c",
    "error": "job_dir in the cluster config says where; see also getiaction-launch logs",
    "export": "forward_env_vars in the cluster config names what jobs take from your shell",
    "export-file": "forward_env_vars in the cluster config names what jobs take from your shell",
    "gpus": _GEOMETRY,
    "gpus-per-node": _GEOMETRY,
    "gpus-per-socket": _GEOMETRY,
    "gpus-per-task": _GEOMETRY,
    "input": "jobs have no input",
    "job-name": "--name names the run and its job",
    "no-requeue": "restarts in the cluster config says how many automatic restarts a run gets; "
    "so do --max-interruptions, --max-node-failures and --max-crashes",
    "nodes": _GEOMETRY,
    "ntasks": _GEOMETRY,
    "ntasks-per-core": _GEOMETRY,
    "ntasks-per-gpu": _GEOMETRY,
    "ntasks-per-node": _GEOMETRY,
    "ntasks-per-socket": _GEOMETRY,
    "open-mode": "logs of all attempts are kept",
    "output": "job_dir in the cluster config says where; see also getiaction-launch logs",
    "parsable": _OWN_FLAG + "--parsable",
    "requeue": "restarts in the cluster config says how many automatic restarts a run gets; "
    "so do --max-interruptions, --max-node-failures and --max-crashes",
    "signal": "warning_seconds in the cluster config says when",
    "test-only": "getiaction-launch check ... does that",
    "wait": _OWN_FLAG + "--wait",
    "wrap": "name a script: getiaction-launch train.py",
}
_BY_SRUN = {
    "kill-on-bad-exit": "a node that fails always ends the others",
    "multi-prog": "every node runs the same",
    "pty": "see a run's output by getiaction-launch logs -f",
    "wait": "nodes that have ended wait for the others",
}


def spell(options: Mapping[str, Value]) -> dict[str, str | bool]:
    """Write options as SLURM does.

    Returns:
        By name: a value, or True for a switch, which an empty value or ``true`` makes. What is
        ``false`` is left out.
    """
    return {
        key.replace("_", "-"): True if value is None or value is True else str(value) or True
        for key, value in options.items()
        if value is not False
    }


def refuse_contradictions(command: str, options: Mapping[str, Value]) -> None:
    """Look through options that the user has named.

    Args:
        command: The command that takes the options: ``sbatch`` or ``srun``.
        options: By name, without dashes.

    Raises:
        ClusterConfigError: For one that the launcher decides by other means, with the right one.
    """
    refused = _BY_BOTH | (_BY_SRUN if command == "srun" else {})
    for typed, value in options.items():
        key = typed.replace("_", "-")
        # sbatch takes the beginning of a long option for all of it.
        meant = key if key in refused else next((k for k in refused if k.startswith(key)), None)
        if key == "gres" and "gpu" in str(value):
            meant = "gpus"
        if len(key) == 1:
            raise ClusterConfigError(
                f"--{command} {typed}={value}: an option of one letter is not taken here.",
                f"Write it in full, as in {command}'s manual: man {command}",
            )
        if meant is not None:
            raise ClusterConfigError(
                f"--{command} {typed}={value}: {meant} is not set this way.", f"{refused[meant]}."
            )
