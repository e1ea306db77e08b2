"""Whether a job fits into the partitions of the cluster: sbatch would queue it for ever."""

import math
import re
from collections.abc import Mapping

from getiaction_launch.backends.slurm.command import call
from getiaction_launch.errors import CheckError, LaunchError, nearest_first


def check_partitions(
    chosen: str | None, qos: str | None, num_nodes: int, time_limit_minutes: int | None
) -> None:
    """Raise CheckError unless one of the partitions that are asked for could hold the job.

    Args:
        chosen: Their names, separated by commas; SLURM's default if None.
        qos: Quality of service, which may allow more time than a partition does.
        num_nodes: Of the job.
        time_limit_minutes: 0 for no limit, the partition's default if None.

    Raises:
        CheckError: If none could, or there is none of that name.
        UnreachableError: If SLURM does not answer.
    """
    said = call("scontrol", "--oneliner", "--all", "show", "partition")
    lines = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines()]
    partitions = {line["PartitionName"]: line for line in lines if "PartitionName" in line}
    names = chosen.split(",") if chosen else []
    for name in names:
        if name not in partitions:
            raise CheckError(
                f"--partition {name}: SLURM has no partition of that name.",
                nearest_first(name, partitions),
            )
    defaults = [name for name, line in partitions.items() if line.get("Default") == "YES"]
    if time_limit_minutes is not None and _may_exceed_partitions(qos):
        time_limit_minutes = None
    complaints = [
        _complaint(partitions[name], num_nodes, time_limit_minutes) for name in names or defaults
    ]
    if None not in complaints:  # one of several partitions that fits is enough
        for complaint in filter(None, complaints):
            raise CheckError(*complaint)


def _may_exceed_partitions(qos: str | None) -> bool:
    """Whether jobs of a QOS may take more time than their partition allows, or nobody can tell."""
    if qos is None:
        return False
    words = ("show", "qos", f"names={qos}", "format=flags")
    try:
        return "PartitionTimeLimit" in call("sacctmgr", "--noheader", "--parsable2", *words)
    except LaunchError:
        return True  # no accounting to ask; sbatch may still refuse


def _complaint(
    partition: Mapping[str, str], num_nodes: int, time_limit_minutes: int | None
) -> tuple[str, str] | None:
    """Why a partition cannot hold a job, and what to do."""
    name = partition["PartitionName"]
    counts = [partition.get("TotalNodes", ""), partition.get("MaxNodes", "")]
    most = min((int(count) for count in counts if count.isdecimal()), default=None)
    if most is not None and num_nodes > most:
        return (
            f"--nodes {num_nodes}: a job in partition {name!r} can have {most}.",
            f"--nodes {most}, or another partition: -p",
        )
    longest = _minutes(partition.get("MaxTime", ""))
    wanted = math.inf if time_limit_minutes == 0 else time_limit_minutes
    if longest is not None and wanted is not None and wanted > longest:
        return (
            f"--time {time_limit_minutes}: partition {name!r} allows {longest:.0f} minutes.",
            f"-t {longest:.0f} (the run goes on in its next job), or another partition: -p",
        )
    return None


def _minutes(duration: str) -> float | None:
    """Read ``[days-]hours:minutes:seconds``; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60
