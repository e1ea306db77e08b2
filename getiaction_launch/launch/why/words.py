"""The paragraph that explains a run to a person, one sentence for each thing that is known."""

import re
import time
from typing import TYPE_CHECKING

from getiaction_launch.errors import counted
from getiaction_launch.launch.why.failure import Failure
from getiaction_launch.launch.why.pace import Pace
from getiaction_launch.launch.why.signs import Category
from getiaction_launch.plan.durations import age
from getiaction_launch.run.state import JobState

if TYPE_CHECKING:
    from getiaction_launch.launch.listing.below import Found
    from getiaction_launch.launch.why.diagnosis import Diagnosis
    from getiaction_launch.launch.why.reading import Records

SHOWN_RANKS = 4
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_MEANINGS = {
    Category.CODE: "The error comes from the program, not from the cluster",
    Category.SPEC: "The spec is wrong, so no restart can help",
    Category.ENVIRONMENT: "The Python environment of that node lacks something",
    Category.NATIVE: "Compiled code has crashed, which Python cannot catch",
    Category.HOST_MEMORY: "The memory of its node, or the job's limit of it, was used up",
    Category.GPU_MEMORY: "The memory of its GPU was used up; memory of the host was not the cause",
    Category.SHARED_MEMORY: (
        "The shared memory of its node (/dev/shm), through which data loaders pass batches, was "
        "too small"
    ),
    Category.GPU: "A GPU or its driver has failed, not the program",
    Category.DISK: "A disk or file server refused to be written or read",
    Category.STORAGE: "The run's storage refused a request or did not answer",
    Category.DOWNLOAD: "Something could not be downloaded from where the workers run",
    Category.NETWORK: "A connection over the network failed",
    Category.START: "That node could not start its workers",
    Category.KILLED: (
        "Something outside of the run killed it; if the kernel did so, for memory, it has not "
        "counted that in the job's control group"
    ),
    Category.NODE: "A node was lost through no fault of the program",
    Category.STALL: "Training stood still, so the attempt was ended",
    Category.TIME: "The job's time limit ended it, and not an error",
    Category.PREEMPTION: "The scheduler took its nodes for another job",
    Category.UNKNOWN: "Nothing that was recorded says why",
}


def unlaunched(found: "Found") -> str:
    """Say why nobody knows where a run stands that this launcher has not started."""
    written = (
        f" It last wrote a file {age(time.time() - found.last_written_at)} ago."
        if (found.last_written_at)
        else ""
    )
    return (
        "It was started by `getiaction fit` or another program and not by this launcher, so "
        f"nothing has recorded whether it still trains, how it ended, or why.{written}"
    )


def end(records: "Records", failure: Failure) -> str:
    """Say who ended a run or an attempt, and with what."""
    return " ".join(filter(None, [_first(records, failure), _meaning(failure), _others(failure)]))


def _first(records: "Records", failure: Failure) -> str:
    if failure.category is Category.CANCELLED:
        return f"It was cancelled{_canceller(records)}."
    if failure.rank is None:
        place = _host(failure.host) if failure.node is not None else ""
        return f"{_sentence(failure.error or 'it ended')}{place}."
    where = f", at {failure.where}" if failure.where else ""
    error, *more = _plain(failure.error).splitlines() or ["an error without words"]
    dots = " ..." if more else ""
    verb = "stood still" if failure.category is Category.STALL else "failed first"
    return (
        f"Rank {failure.rank} on node {failure.node}{_host(failure.host)} {verb}: "
        f"{error.rstrip('.')}{dots}{where}."
    )


def _canceller(records: "Records") -> str:
    cancel, reason = records.cancel, records.status.reason
    if cancel and cancel.by:
        return f" by {cancel.by}"
    words = reason.partition("cancelled")[2].strip()
    return f" {words}" if words else ""


def _host(host: str | None) -> str:
    return f" ({host})" if host else ""


def _sentence(text: str) -> str:
    text = text.splitlines()[0].rstrip(".")
    return text[:1].upper() + text[1:]


def _meaning(failure: Failure) -> str:
    text = _MEANINGS.get(failure.category, "")
    return f"{text}." if text else ""


def _others(failure: Failure) -> str:
    said = []
    if failure.same:
        said.append(f"{_ranks(failure.same)} failed with the same error.")
    if failure.echoes:
        named = _ranks(failure.echoes)
        said.append(f"The errors of {named[0].lower()}{named[1:]} only follow from this.")
    if failure.silent:
        named = _ranks(failure.silent)
        said.append(
            f"All who reported an error only miss somebody; {named[0].lower()}{named[1:]} reported "
            "nothing."
        )
    return " ".join(said)


def _ranks(ranks: list[int]) -> str:
    if len(ranks) > SHOWN_RANKS:
        return f"{len(ranks)} other ranks"
    if len(ranks) == 1:
        return f"Rank {ranks[0]}"
    return f"Ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def repeated(records: "Records", repeats: int) -> str:
    """Say that the attempts before ended in the same way, and at which steps."""
    if repeats < 2:  # noqa: PLR2004 - one is not a row
        return ""
    steps = [record.last_step for record in records.attempts[-repeats:]]
    count = _ORDINALS[repeats] if repeats < len(_ORDINALS) else f"{repeats}th"
    where = ""
    if steps[-1] is not None and len(set(steps)) == 1:
        where = f" at step {steps[-1]}"
    elif None not in steps and repeats <= SHOWN_RANKS:
        where = f" (at steps {', '.join(map(str, steps))})"
    return f"That is the {count} time in a row{where}."


def lost(found: "Diagnosis", *, keeps_own: bool) -> str:
    """Say what a resumed run must train again, as far as the launcher knows."""
    if found.last_step in (None, 0):
        return "No step was trained, so nothing is lost." if found.last_step == 0 else ""
    if keeps_own:
        return f"It had reached step {found.last_step}; the program keeps its own checkpoints."
    if found.checkpoint is None:
        return f"It had reached step {found.last_step}, and no checkpoint was committed yet."
    point = f"The last committed checkpoint is that of step {found.checkpoint_step}"
    if not found.lost_steps:
        return f"{point}, so nothing is lost." if found.lost_steps == 0 else f"{point}."
    steps = counted(found.lost_steps, "step")
    verb = "is" if found.lost_steps == 1 else "are"
    return f"It had reached step {found.last_step}. {point}, so {steps} {verb} lost."


def success(records: "Records") -> str:
    """Say that a run has finished, and what ended its earlier attempts."""
    step = records.status.progress.step
    trained = f" after {counted(step, 'step')}" if step is not None else ""
    attempts = counted(len(records.attempts), "attempt")
    said = [f"Training finished{trained} in {attempts}."]
    earlier = [record for record in records.attempts[:-1] if record.reason]
    said += [
        f"Attempt {record.number} ended at step {record.last_step}: {_first_line(record.reason)}."
        for record in earlier[-SHOWN_RANKS:]
    ]
    return " ".join(said)


def running(records: "Records", pace: Pace, failure: Failure | None) -> str:
    """Say how a run does that trains now, and why its attempt before ended."""
    number = records.attempts[-1].number
    said = [f"Attempt {number} is running: {pace.words}."]
    if failure:
        said.append(f"The attempt before ended: {_brief(failure)}.")
    if error := records.status.progress.checkpoint_error:
        said.append(f"No checkpoint can be saved: {_first_line(error)}.")
    if error := records.status.progress.upload_error:
        said.append(f"No checkpoint can be uploaded: {_first_line(error)}.")
    return " ".join(said)


def waiting(records: "Records") -> str:
    """Say what a run waits for."""
    job, status = records.job_status, records.status
    reason = job.reason if job and job.reason else status.reason.partition(" (attempt ")[0]
    settings = records.job.backend.init_args if records.job else {}
    partition = settings.get("partition")
    where = f" in partition {partition}" if isinstance(partition, str) and partition else ""
    nodes = records.plan.topology.num_nodes if records.plan else 0
    what = counted(nodes, "node") if nodes else "its nodes"
    first = _first_line(reason)
    if status.state is JobState.RUNNING:
        return "Its next attempt is about to start."
    said = f"It waits for {what}{where}: {first}." if first else f"It waits for {what}{where}."
    if job and job.meaning:
        said += f" That means: {job.meaning}."
    return said


def before(records: "Records", failure: Failure, repeats: int) -> str:
    """Say how the attempt ended that a waiting run has behind it."""
    number = records.attempts[-1].number
    first = f"Attempt {number} ended: {_brief(failure)}."
    return " ".join(filter(None, [first, repeated(records, repeats), _RESTARTS]))


_RESTARTS = "The run restarts automatically."


def _brief(failure: Failure) -> str:
    if failure.rank is None:
        return _first_line(failure.error) or failure.category.value
    place = f"rank {failure.rank} on node {failure.node}{_host(failure.host)}"
    return f"{place}: {_first_line(_plain(failure.error))}"


def _plain(error: str) -> str:
    """Return an error without the names that only the launcher's records have."""
    return re.sub(r"^(WorkerDied|OutOfMemory|Stalled): ", "", error)


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0].strip().rstrip(".")
