"""What SLURM's words for why a job waits mean (https://slurm.schedmd.com/job_reason_codes.html)."""

import re

_MEANINGS = (
    (r"Resources", "all fitting nodes are in use; it is next when enough of them are free"),
    (r"Priority", "jobs of a higher priority are before it in the queue"),
    (r"Dependency", "a job that it depends on has not ended as required yet"),
    (r"DependencyNeverSatisfied", "a job that it depends on has failed, so it will never start"),
    (r"JobHeldUser", "it is held and will not start before it is released"),
    (r"JobHeldAdmin", "an administrator holds it and must release it"),
    (r"BeginTime", "it may not start before the time that was asked for, or of its requeue"),
    (r"ReqNodeNotAvail.*", "a node that it asks for is down, drained or reserved"),
    (r"Reserv.*", "it waits for a reservation"),
    (r"PartitionTimeLimit", "its time limit is longer than the partition allows: lower --time"),
    (r"PartitionNodeLimit", "it asks for more nodes than the partition allows: lower --nodes"),
    (r"PartitionDown|PartitionInactive", "its partition does not start jobs at present"),
    (r"BadConstraints", "no node has what it asks for (--constraint, --mem, --gpus-per-node)"),
    (r"Licenses", "it waits for a licence"),
    (r"(QOS|Assoc)\w*Limit|(QOS|Assoc)(Max|Grp)\w+", "a limit of its account or QOS is reached"),
    (r"JobArrayTaskLimit", "as many points of its sweep run as --max-parallel allows"),
    (r"launch failed requeued held", "a node could not start it, so SLURM holds it"),
)
"""Patterns of SLURM's words, and what they mean."""


def meaning_of(reason: str) -> str:
    """Return what a reason means for people; empty if it is unknown.

    Args:
        reason: Why the job waits, in SLURM's own word.
    """
    word = reason.partition(",")[0].strip("() ")
    return next((text for words, text in _MEANINGS if re.fullmatch(words, word)), "")
