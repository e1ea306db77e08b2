"""Check that a job fits into a partition; sbatch would queue one that does not for ever."""

import math
import re
from collections.abc import Mapping

from getiaction_launch.backends.slurm.command import call
from getiaction_launch.errors import CheckError, LaunchError, counted, nearest_first


def check_partitions(
    chosen: str | None, qos: str | None, num_nodes: int, time_limit_minutes: int | None
) -> None:
    """Check that the job fits into one of the partitions that it may be submitted to.

    Args:
        chosen: Names of the partitions, separated by commas; SLURM's default if None.
        qos: Quality of service of the job, which may allow more time than a partition does.
        num_nodes: How many nodes the job has.
        time_limit_minutes: Time limit of the job; 0 for no limit, the partition's default if None.

    Raises:
        CheckError: If the job fits into none of the partitions, or one of them does not exist.
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
    if None not in complaints:  # SLURM chooses any partition that fits
        for complaint in filter(None, complaints):
            raise CheckError(*complaint)


def _may_exceed_partitions(qos: str | None) -> bool:
    """Whether a QOS allows more time than the partition does, as far as that can be found out."""
    if qos is None:
        return False
    words = ("show", "qos", f"names={qos}", "format=flags")
    try:
        return "PartitionTimeLimit" in call("sacctmgr", "--noheader", "--parsable2", *words)
    except LaunchError:
        return True  # only the accounting knows; sbatch may still reject the job


def _complaint(
    partition: Mapping[str, str], num_nodes: int, time_limit_minutes: int | None
) -> tuple[str, str] | None:
    """Return why a job does not fit into a partition, and the fix; None if it fits."""
    name = partition["PartitionName"]
    counts = [partition.get("TotalNodes", ""), partition.get("MaxNodes", "")]
    most = min((int(count) for count in counts if count.isdecimal()), default=None)
    if most is not None and num_nodes > most:
        what = f"a job in partition {name!r} can have at most {counted(most, 'node')}"
        return f"--nodes {num_nodes}: {what}.", f"--nodes {most}, or another partition: -p"
    longest = _minutes(partition.get("MaxTime", ""))
    wanted = math.inf if time_limit_minutes == 0 else time_limit_minutes
    if longest is not None and wanted is not None and wanted > longest:
        minutes = int(longest)
        what = f"a job in partition {name!r} can run for at most {counted(minutes, 'minute')}"
        fix = f"-t {minutes} (longer training continues in the next job), or another partition: -p"
        return f"--time {time_limit_minutes}: {what}.", fix
    return None


def _minutes(duration: str) -> float | None:
    """Convert ``[days-]hours:minutes:seconds`` to minutes; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60
