"""Reads the stacks of this node's workers, whatever they hang in.

py-spy reads the memory of a process from outside: it needs neither the interpreter's lock nor a
process that runs. Where the kernel forbids that, a signal has the worker write its own stacks
(:func:`~getiaction_launch.worker.heart.start_heart`), which works in C code, too.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from getiaction_launch.run.beats.stacks import DUMP_SIGNAL, Frame, RankStacks, Thread

LIMIT_SECONDS = 15.0
LAST_SECONDS = 5.0
WRITE_SECONDS = 3.0
"""How long py-spy may take, and once more if it found nothing; then the worker writes itself."""
MAIN_THREAD = "MainThread"
_MAX_BYTES = 4 << 20
_THREAD = re.compile(
    r"^(?:Current thread|Thread) 0x[0-9a-f]+(?: \[.*?\])? \(most recent call first\)"
)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


def read_stacks(pids: Mapping[int, int], files: Mapping[int, int]) -> list[RankStacks]:
    """Read the stacks of several workers at the same time.

    Args:
        pids: Id of each worker's process, by its rank.
        files: Descriptor of the file to which each worker writes its stacks on a signal.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    with ThreadPoolExecutor(max(1, min(16, len(pids)))) as pool:
        jobs = [pool.submit(_read, rank, pid, files.get(rank)) for rank, pid in pids.items()]
        return sorted((job.result() for job in jobs), key=lambda each: each.rank)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process, so that it waits for SIGCONT."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] == "T"
    return False


def _read(rank: int, pid: int, file: int | None) -> RankStacks:
    found = RankStacks(rank, pid, is_stopped(pid))
    threads, error = _spy(pid, LIMIT_SECONDS, "--nonblocking")
    if not threads and not found.is_stopped:
        # Beware: it pauses the process, which fails and may last if a signal has stopped it.
        threads, error = _spy(pid, LAST_SECONDS)
    if not threads and not found.is_stopped and file is not None:
        threads = _ask(pid, file)
    return replace(found, threads=_main_first(threads), error="" if threads else error)


def _main_first(threads: Sequence[Thread]) -> list[Thread]:
    return sorted(threads, key=lambda thread: thread.name != MAIN_THREAD)


def _spy(pid: int, limit_seconds: float, *flags: str) -> tuple[list[Thread], str]:
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return [], "py-spy is not installed"
    try:
        done = subprocess.run(
            [program, "dump", "--pid", str(pid), "--json", "--full-filenames", *flags],
            capture_output=True,
            timeout=limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], f"py-spy has not answered in {limit_seconds:.0f} s"
    except OSError as error:
        return [], f"py-spy: {error.strerror}"
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        causes = [line.strip() for line in words if re.match(r"\s+(0: )?\S", line)]
        return [], f"py-spy: {(causes or words or ['failed'])[0]}"
    try:
        return [_thread(each) for each in json.loads(done.stdout)], ""
    except (ValueError, KeyError, TypeError) as error:
        return [], f"py-spy: {error!r}"


def _thread(content: Mapping[str, object]) -> Thread:
    """Read a thread as py-spy describes it; ``--json`` is its public interface."""
    frames: list[Mapping[str, object]] = content["frames"]  # type: ignore[assignment]
    return Thread(
        str(content["thread_name"] or "?"),
        [Frame(str(f["name"]), str(f["filename"]), int(str(f["line"]))) for f in frames],
        bool(content["owns_gil"]),
    )


def _ask(pid: int, file: int) -> list[Thread]:
    """Have a worker write its stacks, and read them."""
    if DUMP_SIGNAL is None:
        return []
    start = os.fstat(file).st_size
    try:
        os.kill(pid, DUMP_SIGNAL)
    except OSError:
        return []
    deadline, size = time.monotonic() + WRITE_SECONDS, start
    while time.monotonic() < deadline:
        time.sleep(0.1)
        before, size = size, os.fstat(file).st_size
        if size > start and size == before:
            break
    text = os.pread(file, min(size - start, _MAX_BYTES), start).decode(errors="replace")
    return parse_faulthandler(text)


def parse_faulthandler(text: str) -> list[Thread]:
    """Read the threads from what :mod:`faulthandler` writes; the main thread is its last one."""
    found: list[list[Frame]] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            found.append([])
        elif (frame := _FRAME.match(line)) and found:
            found[-1].append(Frame(frame[3], frame[1], int(frame[2])))
    last = len(found) - 1
    return [
        Thread(MAIN_THREAD if number == last else f"Thread-{number}", frames)
        for number, frames in enumerate(found)
    ]
