"""SLURM's commands: run one within a limit, and say in our words why it failed."""

import os
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
    "munge",
)
_FIXES = {
    "account": "Name yours: -A ACCOUNT   (sacctmgr show associations user=$USER)",
    "qos": "Name one that you may use: -q QOS   (sacctmgr show qos format=name)",
    "node configuration": "Ask for less (--nodes, --gpus-per-node, -c, --mem) or elsewhere (-p); "
    "see what there is: sinfo --format='%P %D %c %m %G'",
    "memory": "Ask for less: --mem 4G; see what there is: sinfo --format='%P %m'",
    "time limit": "Ask for less: -t 60; see the limits: sinfo --format='%P %l'",
    "feature": "Name one that there is: -C FEATURE   (sinfo --format=%f)",
}


def _environment() -> dict[str, str]:
    """This process's environment without what changes the answers of SLURM's commands."""
    prefixes = ("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or not name.startswith(prefixes)
    }
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def call(*words: str, text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run one of SLURM's commands and return what it prints.

    Args:
        words: The command line.
        text: Its standard input.
        environment: Instead of :func:`_environment`.

    Raises:
        UnreachableError: If SLURM does not answer.
        RefusedError: If it says no.
    """
    try:
        result = subprocess.run(
            words,
            env=_environment() if environment is None else environment,
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
        raise UnreachableError(
            f"{words[0]} cannot be run here: {error.strerror}.",
            "Run this where SLURM's commands are, on a login node of the cluster.",
        ) from error
    if result.returncode:
        raise refusal(words[0], result.stderr or result.stdout)
    return result.stdout


def refusal(command: str, said: str) -> LaunchError:
    """Translate what a command of SLURM printed when it failed."""
    lines = [line.removeprefix(f"{command}: ").removeprefix("error: ") for line in said.split("\n")]
    words = "; ".join(line.strip() for line in lines if line.strip()) or "it gave no reason"
    if any(sign in words.lower() for sign in _UNREACHABLE):
        return UnreachableError(
            f"SLURM does not answer {command}: {words}.",
            "Try again in a minute; is it up?   scontrol ping",
        )
    lower = words.lower()
    fix = next((fix for sign, fix in _FIXES.items() if sign in lower), "")
    return RefusedError(f"SLURM refuses: {words}.", fix)
