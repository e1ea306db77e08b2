"""SLURM's commands: run one within a time limit, and explain why it failed."""

import functools
import os
import re
import subprocess
from collections.abc import Mapping

from getiaction_launch.errors import LaunchError, RefusedError, UnreachableError
from getiaction_launch.run.run import STAGING_VARIABLE

COMMAND_SECONDS = 30

KEPT_VARIABLES = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", STAGING_VARIABLE}
_UNREACHABLE = (
    "unable to contact slurm controller",
    "connection refused",
    "connection timed out",
    "connection failure",
    "socket timed out",
    "zero bytes were transmitted",
    "unable to establish controller machine",
    "could not establish a configuration source",
    "munge",
)
_FIXES = {
    "node name": "Name nodes that exist (-w, -x): sinfo --Node --format=%N",
    "violates": "Ask for less (-t, --nodes), or use another -q or -A; "
    "your limits: sacctmgr show assoc",
    "account": "Name your account: -A ACCOUNT   (sacctmgr show associations user=$USER)",
    "qos": "Name a QOS that you may use: -q QOS   (sacctmgr show qos format=name)",
    "node configuration": "Ask for less (--nodes, --gpus-per-node, -c, --mem) or choose another "
    "partition (-p); what the nodes have: sinfo --format='%P %D %c %m %G'",
    "memory": "Ask for less: --mem 4G; what the nodes have: sinfo --format='%P %m'",
    "time limit": "Ask for less: -t 60; the limits: sinfo --format='%P %l'",
    "dependency": "Name jobs that are there: -d afterok:ID   (squeue --me)",
    "generic resource": "Name a type that nodes have: --gpus-per-node TYPE:N   (sinfo --format=%G)",
    "cpu count": "Ask for fewer CPUs: -c N   (sinfo --format='%P %c')",
    "node count": "Ask for fewer nodes: --nodes N   (sinfo --format='%P %D')",
    "reservation": "Name one that you may use: --sbatch reservation=NAME   (sinfo --reservation)",
    "license": "Name licenses that there are: --sbatch licenses=NAME   (scontrol show licenses)",
    "partition": "Name another partition: -p PARTITION   (sinfo --format='%P %a %l')",
    "feature": "Name a feature that nodes have: -C FEATURE   (sinfo --format=%f)",
}

_OTHER_FIX = "What was asked for is in the batch script: getiaction-launch --dry-run ..."


def clean_environment() -> dict[str, str]:
    """Return this process's environment without variables that change the commands' output."""
    prefixes = ("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or not name.startswith(prefixes)
    }
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def call(*words: str, text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run one of SLURM's commands and return its output.

    Args:
        words: Name of the command and its arguments.
        text: Standard input of the command; empty by default.
        environment: All environment variables of the command; by default those of this process,
            without the ones that would change the command's output.

    Raises:
        UnreachableError: If SLURM does not answer.
        RefusedError: If SLURM rejects the request.
    """
    try:
        result = subprocess.run(
            words,
            env=clean_environment() if environment is None else environment,
            input=text or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise refusal(words[0], f"connection timed out after {COMMAND_SECONDS} s") from None
    except OSError as error:
        raise absence(words[0], error) from error
    if result.returncode:
        raise refusal(words[0], result.stderr or result.stdout)
    return result.stdout


def absence(command: str, error: OSError) -> UnreachableError:
    """Make an error of a command of SLURM that this machine does not have.

    Args:
        command: Name of the command, such as ``sbatch``.
        error: What the kernel has said.
    """
    return UnreachableError(
        f"{command} cannot be run here: {error.strerror}.",
        "Run this on a login node of the cluster, which has SLURM's commands.",
    )


def cluster_name() -> str | None:
    """Return the name of the cluster that SLURM's commands reach here; None if it is unknown."""
    return configured("ClusterName")


def configured(key: str) -> str | None:
    """Return a setting of the site, as slurm.conf(5) names it; None if it is unknown."""
    found = re.search(rf"^{key}\s*=\s*(\S+)", _config(), re.MULTILINE)
    return found[1] if found else None


@functools.cache
def _config() -> str:
    try:
        return call("scontrol", "show", "config")
    except LaunchError:
        return ""


def refusal(command: str, said: str) -> LaunchError:
    """Make an error from the output of a command of SLURM that failed.

    Args:
        command: Name of the command, such as ``sbatch``.
        said: What the command printed.
    """
    lines = [line.removeprefix(f"{command}: ").removeprefix("error: ") for line in said.split("\n")]
    words = "; ".join(line.strip() for line in lines if line.strip()) or "it gave no reason"
    if any(sign in words.lower() for sign in _UNREACHABLE):
        return UnreachableError(
            f"SLURM does not answer {command}: {words}.",
            "Try again in a minute, and check whether SLURM is up: scontrol ping",
        )
    lower = words.lower()
    fix = next((fix for sign, fix in _FIXES.items() if sign in lower), _OTHER_FIX)
    return RefusedError(f"rejected by SLURM: {words}.", fix)
