"""A node reads the stacks of its workers whatever they hang in."""

import os
import signal
import subprocess
import sys
import time

import pytest

from getiaction_launch.node.watching import stacks as module
from getiaction_launch.node.watching.stacks import is_stopped, parse_faulthandler, read_stacks
from getiaction_launch.run.beats.memory import BEAT_VARIABLE, create_memory

LIMIT_SECONDS = 60
HEAD = """
import ctypes, sys, threading
from getiaction_launch.worker.heart import start_heart
start_heart()
def in_python():
    lock = threading.Lock()
    lock.acquire()
    print("hangs", flush=True)
    lock.acquire()
def in_c():
    print("hangs", flush=True)
    while True:  # a signal ends the call early
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
globals()[sys.argv[1]]()
"""


@pytest.fixture
def hang():
    """Start processes that hang in a function, each with the files of a worker."""
    started = []

    def start(function):
        beats, stacks = create_memory(), create_memory()
        os.ftruncate(stacks, 0)
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD, function],
            stdout=subprocess.PIPE,
            pass_fds=(beats, stacks),
            env={**os.environ, BEAT_VARIABLE: f"{beats},{stacks}"},
        )
        started.append((process, beats, stacks))
        assert process.stdout.readline() == b"hangs\n"
        return process, stacks

    yield start
    for process, *files in started:
        process.kill()
        process.wait()
        process.stdout.close()
        for file in files:
            os.close(file)


def functions(found):
    """Return the names of the calls of the main thread."""
    assert found.error == ""
    return [frame.function for frame in found.frames]


def test_a_hang_in_python_and_one_in_c_are_seen(hang):
    """Also if the interpreter's lock is held; several processes are read at the same time."""
    pids = {rank: hang(f)[0].pid for rank, f in enumerate(("in_python", "in_c"))}
    first, second = read_stacks(pids, {})
    assert functions(first)[0] == "in_python"
    assert functions(second)[0] == "in_c"
    assert second.threads[0].has_gil
    assert (first.rank, second.pid) == (0, pids[1])


def test_a_stopped_process_is_read_and_known_as_stopped(hang):
    """It cannot say anything itself, and is stopped afterwards, too."""
    process, stacks = hang("in_python")
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_stopped(process.pid):
        assert time.monotonic() < deadline
    (found,) = read_stacks({0: process.pid}, {0: stacks})
    assert found.is_stopped
    assert functions(found)[0] == "in_python"
    assert is_stopped(process.pid)


@pytest.mark.parametrize("function", ["in_python", "in_c"])
def test_where_nobody_may_look_from_outside_the_worker_writes_its_stack(
    hang, monkeypatch, function
):
    """As where ptrace is forbidden; the worker continues, and can be asked again."""
    monkeypatch.setattr(module, "_spy", lambda *_: ([], "py-spy: Permission denied"))
    process, stacks = hang(function)
    for _ in range(2):
        (found,) = read_stacks({0: process.pid}, {0: stacks})
        assert functions(found)[0] == function
    assert process.poll() is None


def test_what_cannot_be_read_says_why():
    """A process that is gone has no stack."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (found,) = read_stacks({3: process.pid}, {})
    assert (found.rank, found.threads) == (3, [])
    assert found.error.startswith("py-spy: ")


def test_threads_of_faulthandler_are_read():
    """The main thread is the last one that it writes; names of threads are passed over."""
    text = (
        "Thread 0x00007f (most recent call first):\n"
        '  File "/lib/threading.py", line 5 in wait\n'
        "\n"
        "Current thread 0x00007e [python] (most recent call first):\n"
        '  File "/home/me/train.py", line 3 in <module>\n'
    )
    other, main = parse_faulthandler(text)
    assert [str(frame) for frame in main.frames] == ["<module> (/home/me/train.py:3)"]
    assert (main.name, other.frames[0].function) == ("MainThread", "wait")
