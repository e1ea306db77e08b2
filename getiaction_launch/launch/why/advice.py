"""What to type next: commands that fit the cause of an end."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from getiaction_launch.launch.why.failure import Failure
from getiaction_launch.launch.why.signs import Category
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.text import clean_line

_BATCH = re.compile(r"\b((?:train_)?batch_size)\s*[:=]\s*(\d{1,6})\b")
_FILE = re.compile(r": '(/[^'\n]{1,500})'")


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        what: What to do, and why.
        command: The command to type, ready to paste; empty if there is none.
    """

    what: str
    command: str = ""


@dataclass(frozen=True)
class Situation:
    """What the commands depend on.

    Attributes:
        place: The run as one types it, ready to paste.
        directory: The run's directory or URL.
        resume: The command that resumes the run.
        plan: The plan of the run; None if it cannot be read.
        memory_mb: Memory that each node of the job has asked for, if that is known.
        limits_memory: Whether the scheduler limits memory, so that a job can ask for more.
        has_checkpoint: Whether there is a checkpoint to resume from.
        keeps_own: Whether the program keeps its own checkpoints.
    """

    place: str
    directory: str
    resume: str
    plan: Plan | None = None
    memory_mb: int | None = None
    limits_memory: bool = False
    has_checkpoint: bool = False
    keeps_own: bool = False


def steps_after(failure: Failure, situation: Situation) -> list[Step]:
    """Return what to do about an attempt that has ended badly and is not restarted.

    Args:
        failure: How the attempt ended.
        situation: What the commands depend on.
    """
    steps = list(_repairs(failure, situation))
    if failure.category is not Category.SPEC:
        then = "then resume" if steps else "resume"
        start = "from the last checkpoint" if situation.has_checkpoint else "from the beginning"
        if situation.keeps_own:
            resume_args = shlex.join(situation.plan.resume_args) if situation.plan else ""
            start = f"with {resume_args}" if resume_args else "as the program itself does"
        if not any(step.command.startswith(situation.resume) for step in steps):
            is_corrected = failure.category is Category.CODE and _has_copy(situation.plan)
            command = _with_code_now(situation.resume) if is_corrected else situation.resume
            steps.append(Step(f"{then} {start}", command))
    return steps


def _repairs(failure: Failure, situation: Situation) -> Iterator[Step]:  # noqa: C901, PLR0912 - a case for each category
    category, host = failure.category, clean_line(failure.host or "that node")
    logs = f"getiaction-launch logs {situation.place}"
    if failure.rank is not None:
        logs = f"getiaction-launch logs --rank {failure.rank} -n 50 {situation.place}"
    if category is Category.CODE:
        if failure.where:
            yield Step(f"correct {clean_line(failure.where)}")
        else:
            yield Step("see what came before the error", logs)
    elif category is Category.SPEC:
        yield Step("correct the spec, and start another run", _words(situation.plan))
    elif category is Category.ENVIRONMENT:
        yield Step(f"install what is missing where the workers run ({host})", "pip check")
    elif category is Category.NATIVE:
        yield Step("see in the log which call has crashed", logs)
    elif category is Category.HOST_MEMORY:
        yield from _more_memory(situation)
    elif category is Category.GPU_MEMORY:
        smaller = _smaller_batch(situation.plan)
        yield Step("start another run with a smaller batch" if smaller else _SMALLER, smaller)
    elif category is Category.SHARED_MEMORY:
        what = "give the container a larger /dev/shm, or the data fewer num_workers"
        yield Step(what, "df -h /dev/shm")
    elif category is Category.DISK:
        folder = shlex.quote(clean_line(_folder_in(failure.error) or situation.directory))
        what = f"free some space or inodes there, seen from {host}"
        yield Step(what, f"df -h {folder}; df -i {folder}")
    elif category is Category.STORAGE:
        yield Step("see whether storage answers, and with which words", f"{_LS} {situation.place}")
    elif category is Category.DOWNLOAD:
        yield Step("download it where there is internet; compute nodes often have none")
    elif category is Category.NETWORK and failure.silent:
        silent = f"getiaction-launch logs --rank {failure.silent[0]} -n 50 {situation.place}"
        yield Step("see what the rank that reported nothing was doing", silent)
    elif category in (Category.NETWORK, Category.UNKNOWN, Category.START, Category.STALL):
        yield Step("see what the worker has logged", logs)
    elif category is Category.GPU:
        yield Step(
            f"see whether the GPUs of {host} are healthy", "nvidia-smi -q -d ECC,PAGE_RETIREMENT"
        )
    elif category is Category.KILLED:
        yield Step(
            f"see on {host} whether the kernel did it", "dmesg -T | grep -i 'killed process'"
        )
    elif category is Category.TIME and "saved no progress" in failure.error:
        yield Step("give it a longer time limit, or save more often (saving.period_minutes)")


def _has_copy(plan: Plan | None) -> bool:
    return bool(plan and plan.code and plan.code.archive)


def _with_code_now(command: str) -> str:
    """Return a command that resumes a run, with its files of now."""
    return re.sub(r"(getiaction-launch (?:resume|node))\b", r"\1 --code now", command, count=1)


def _folder_in(error: str) -> str:
    found = _FILE.search(error)
    return (found[1].rpartition("/")[0] or "/") if found else ""


_LS = "getiaction-launch status"
_SMALLER = "lower the batch size in the program, or use a smaller model or lower precision"


def _more_memory(situation: Situation) -> Iterator[Step]:
    if not situation.limits_memory:
        yield Step("lower num_workers or the batch size of the data, or use a larger machine")
        return
    double = f"{2 * situation.memory_mb}M" if situation.memory_mb else "0"
    what = (
        "resume with twice the memory"
        if situation.memory_mb
        else "resume with all of the memory of its nodes"
    )
    command = situation.resume.replace(" resume ", f" resume --mem {double} ", 1)
    yield Step(what, command)


def _smaller_batch(plan: Plan | None) -> str:
    """Return the command of the same run with half of its spec's batch; empty for a script."""
    if plan is None or not plan.arguments or not plan.words:
        return ""
    found: re.Match[str] | None = None
    for argument in plan.arguments:
        found = _BATCH.search(argument[:100_000]) or found
    if not found or int(found[2]) < 2:  # noqa: PLR2004 - half of one is none
        return ""
    return f"{_words(plan)} --data.init_args.{found[1]}={int(found[2]) // 2}"


def _words(plan: Plan | None) -> str:
    """Return the command that starts the same run again."""
    words = plan.words[:200] if plan else []
    return clean_line(shlex.join(["getiaction-launch", *words])) if words else ""
