"""What SLURM's words for the state of a job mean here.

The words are those of SLURM 22.05 to 25.11 (``job_state_string`` in its source): base states, and
flags that SLURM shows in their place. Some versions and tools show several at once, as in
``RUNNING,COMPLETING``, shorten a word (``CANCELLED+``) or add who cancelled (``CANCELLED by 7``).
"""

import re
import time
from dataclasses import dataclass

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.slurm.state.reasons import meaning_of
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.users import user_name

RESTART_SECONDS = 60
"""How long SLURM may take to requeue a job after one of its nodes failed."""

# First the flags, in the order in which SLURM prefers them to each other and to base states.
_STATES = {
    "COMPLETING CG": (JobState.RUNNING, None, "ending"),
    "STAGE_OUT SO": (JobState.RUNNING, None, "its output files are being copied"),
    "CONFIGURING CF": (JobState.PENDING, None, "its nodes are being prepared"),
    "POWER_UP_NODE": (JobState.PENDING, None, "its nodes are being switched on"),
    "RESIZING RS": (JobState.RUNNING, None, ""),
    "REQUEUED RQ": (JobState.PENDING, None, "requeued"),
    "REQUEUE_FED RF": (JobState.PENDING, None, "requeued"),
    "REQUEUE_HOLD RH": (JobState.PENDING, None, "requeued, but held"),
    "SPECIAL_EXIT SE": (JobState.PENDING, None, "requeued, but held"),
    "EXPEDITING": (JobState.PENDING, None, "SLURM may requeue it"),
    "STOPPED ST": (JobState.RUNNING, None, "stopped"),
    "REVOKED RV": (JobState.RUNNING, None, "another cluster of the federation has started it"),
    "RESV_DEL_HOLD RD": (JobState.PENDING, None, "held, since its reservation was deleted"),
    "SIGNALING SI": (JobState.RUNNING, None, ""),
    "RECONFIG_FAIL": (JobState.PENDING, None, "requeued, since its nodes could not be prepared"),
    "LAUNCH_FAILED": (JobState.PENDING, None, "requeued, since a node could not start it"),
    "UPDATE_DB": (JobState.RUNNING, None, ""),
    "PENDING PD": (JobState.PENDING, None, ""),
    "RUNNING R": (JobState.RUNNING, None, ""),
    "SUSPENDED S": (JobState.RUNNING, None, "suspended"),
    "COMPLETED CD": (JobState.SUCCEEDED, None, ""),
    "CANCELLED CA": (JobState.CANCELLED, Cause.CANCEL, "cancelled"),
    "FAILED F": (JobState.FAILED, Cause.CRASH, "its job failed"),
    "TIMEOUT TO": (JobState.INTERRUPTED, Cause.TIME_LIMIT, "its time limit was reached"),
    "NODE_FAIL NF": (JobState.FAILED, Cause.NODE_FAILURE, "a node failed"),
    "PREEMPTED PR": (JobState.INTERRUPTED, Cause.PREEMPTION, "preempted"),
    "BOOT_FAIL BF": (JobState.FAILED, Cause.NODE_FAILURE, "a node did not boot"),
    "DEADLINE DL": (JobState.INTERRUPTED, Cause.TIME_LIMIT, "its deadline has passed"),
    "OUT_OF_MEMORY OOM": (
        JobState.FAILED,
        Cause.OUT_OF_MEMORY,
        "a node's memory limit was reached",
    ),
}
_MEANINGS = {word.split()[0]: meaning for word, meaning in _STATES.items()}
_WORDS = {form: word.split()[0] for word in _STATES for form in word.split()}
# These only mark a job, whose base state says where it stands.
_MARKS = ("RESIZING", "SIGNALING", "RECONFIG_FAIL", "LAUNCH_FAILED", "UPDATE_DB")
_SILENT = ("", "None", "Unknown", "NonZeroExitCode", "TimeLimit", "OutOfMemory", "NodeDown")
_RESTARTED = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")
NEVER_SATISFIED = "DependencyNeverSatisfied"
_HINTS = {
    NEVER_SATISFIED: "to start it anyway: scontrol update JobId={job_id} Dependency=",
    "JobHeldUser": "to let it start: scontrol release {job_id}",
}


@dataclass(frozen=True)
class Answer(JobStatus):
    """The state of a job in SLURM at some time.

    Attributes:
        as_of: When SLURM was asked, in seconds since the epoch.
        is_forgotten: Whether SLURM does not know the job any more.
        is_known_array: Whether SLURM knows other elements of the job's array.
        is_ending: Whether SLURM is ending the job's processes.
    """

    as_of: float = 0
    is_ending: bool = False
    is_forgotten: bool = False
    is_known_array: bool = False


@dataclass(frozen=True)
class Row:
    """One job in a listing.

    Attributes:
        word: The job's state in SLURM's own word.
        reason: Why the job waits or has failed, in SLURM's own word.
        start: When the job started or may start, in seconds since the epoch; 0 if unknown.
        end: When the job ended or must end, in seconds since the epoch; 0 if unknown.
        is_final: Whether no later answer can differ; False while a step of the job has no end.
        exit_code: Exit code and signal of the job, as sacct writes them; empty if unknown.
    """

    word: str
    reason: str = ""
    start: float = 0
    end: float = 0
    is_final: bool = True
    exit_code: str = ""

    @property
    def said(self) -> str:
        """The state in SLURM's own words, for people."""
        why = "" if self.reason in ("", "None") else f"reason {self.reason}"
        code = f"exit code {self.exit_code}" if self.exit_code else ""
        return ", ".join(filter(None, [f"state {self.word}", why, code]))


def plain_word(text: str) -> str | None:
    """Return the one word for a state that decides; None if none of the words is known.

    Args:
        text: A state as SLURM writes it: ``RUNNING``, ``R``, ``RUNNING,COMPLETING``,
            ``["RUNNING", "COMPLETING"]``, ``CANCELLED by 7`` or ``CANCELLED+``.
    """
    words = re.findall(r"[A-Za-z_]+", text.partition(" by ")[0])
    known = {_WORDS[word.upper()] for word in words if word.upper() in _WORDS}
    decisive = known - set(_MARKS) or known
    return next((word for word in _MEANINGS if word in decisive), None)


def read_answer(job_id: str, row: Row, as_of: float) -> Answer:
    """Return what a row of a listing means.

    Args:
        job_id: Id of the job, for hints to users.
        row: The job in a listing of SLURM.
        as_of: When SLURM listed it, in seconds since the epoch.
    """
    word = plain_word(row.word)
    if word is None:
        reason = f"unknown state {row.word} in SLURM"
        return Answer(JobState.UNKNOWN, reason, as_of=as_of, said=row.said)
    state, cause, text = _MEANINGS[word]
    if word in _RESTARTED and abs(as_of - row.end) < RESTART_SECONDS:
        reason = f"{text}; SLURM may requeue its job"
        return Answer(JobState.PENDING, reason, as_of=as_of, said=row.said)
    if canceller := row.word.partition(" by ")[2]:
        name = user_name(int(canceller)) if canceller.isdecimal() else f"user {canceller}"
        text = f"cancelled by {name}"
    why = "" if row.reason in _SILENT else row.reason
    if state is JobState.CANCELLED:  # other reasons say why the job waited before that
        explained = f"{why}, as a job it waited for did not end as required"
        why = explained if why == NEVER_SATISFIED else ""
    if state is JobState.PENDING and (hint := _HINTS.get(why)):
        why = f"{why}; {hint.format(job_id=job_id)}"
    if state is JobState.PENDING and row.start > as_of:
        estimate = time.strftime("%b %d %H:%M", time.localtime(row.start))
        why = f"{why}; SLURM expects to start it on {estimate}".removeprefix("; ")
    reason = ": ".join(filter(None, [text, why]))
    return Answer(
        *(state, reason, cause),
        said=row.said,
        meaning=meaning_of(row.reason) if state is JobState.PENDING else "",
        as_of=as_of,
        is_ending=word == "COMPLETING",
    )
