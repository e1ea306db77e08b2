"""A signal reaches the process that a record names, or none."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from getiaction_launch.system import processes
from getiaction_launch.system.orphans import RUN_VARIABLE, TOKEN_VARIABLE, kill_processes_of
from getiaction_launch.system.processes import (
    NotOursError,
    is_process,
    send_signal,
    start_seconds,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def start():
    """Start processes that sleep, and end them after the test."""
    started = []

    def start(*words, command=SLEEP, **options):
        process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, **options)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("has_pidfd", [True, False])
@pytest.mark.parametrize("pid", [-1, 0, 1, -2, True, False, 1 << 22, 10**30, "7", 7.0, None])
def test_impossible_process_ids_never_reach_the_kernel(monkeypatch, pid, has_pidfd):
    """kill(-1) would end every process of the user, and kill(0) the own group."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *words: sent.append(words))
    send_signal(pid, signal.SIGTERM, 1.0, lambda _: True)
    assert start_seconds(pid) is None
    assert not is_process(pid, None, lambda _: True)
    assert sent == []


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_only_the_recorded_process_is_signalled(monkeypatch, start, has_pidfd):
    """Start time and command line must fit; times of earlier versions may be a second off."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    process = start("--mine")
    started_at = start_seconds(process.pid)

    def fits(words):
        return "--mine" in words

    send_signal(process.pid, signal.SIGTERM, started_at - 30, fits)
    send_signal(process.pid, signal.SIGTERM, None, fits)
    send_signal(process.pid, signal.SIGTERM, float("nan"), fits)
    send_signal(process.pid, signal.SIGTERM, started_at, lambda words: "--other" in words)
    send_signal(process.pid, 0, started_at, fits)
    assert is_process(process.pid, started_at, fits)
    assert process.poll() is None
    send_signal(process.pid, signal.SIGTERM, started_at + 1, fits)
    assert process.wait(10) == -signal.SIGTERM
    send_signal(process.pid, signal.SIGTERM, started_at, fits)  # it has ended: nothing happens


def test_start_time_does_not_depend_on_the_clock(monkeypatch, start):
    """The kernel computes the time of the boot anew, and it may come out a second later."""
    process = start()
    before = start_seconds(process.pid)
    monkeypatch.setattr(psutil, "boot_time", lambda: 1.0)
    assert start_seconds(process.pid) == before
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert start_seconds(process.pid) is None  # it has ended, though nobody has waited for it


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_process_of_another_user_is_not_signalled(start):
    """Root could, but must be asked as that user."""
    environment = {**os.environ, RUN_VARIABLE: "/r/v0", TOKEN_VARIABLE: "t1"}
    process = start(command=["sh", "-c", "echo; sleep 600"], user=65534, env=environment)
    with pytest.raises(NotOursError):
        send_signal(process.pid, signal.SIGTERM, start_seconds(process.pid), lambda _: True)
    kill_processes_of("/r/v0", ["t1"])
    assert process.poll() is None


def test_hidden_process_is_not_taken_for_one_that_has_ended(monkeypatch, tmp_path):
    """With ``hidepid`` of proc(5) the files of another user's process are not there."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(processes, "Path", lambda _: tmp_path / "none")
    with pytest.raises(NotOursError):
        start_seconds(4711)


def test_only_what_an_attempt_has_started_is_killed(start):
    """A shell in which somebody has exported the run's directory has not its token."""
    directory, token = {RUN_VARIABLE: "/r/v0"}, {TOKEN_VARIABLE: "t1"}
    shell, other, early = (
        start(env={**os.environ, **variables})
        for variables in (directory, directory | {TOKEN_VARIABLE: "t0"}, directory)
    )
    elsewhere = start(env={**os.environ, **token, RUN_VARIABLE: "/r/v1"})
    nowhere = start(env={**os.environ, **directory, TOKEN_VARIABLE: ""})
    worker = start(env={**os.environ, **directory, **token}, start_new_session=True)
    kill_processes_of("/r/v0", ["t1", ""], [psutil.Process(early.pid)])
    assert [worker.wait(10), early.wait(10)] == [-signal.SIGKILL] * 2
    assert [process.poll() for process in (shell, other, elsewhere, nowhere)] == [None] * 4


def test_what_executes_a_program_or_was_just_started_is_killed(start, monkeypatch):
    """While a program is executed, the kernel shows no variables; and a look takes a while."""
    variables = {RUN_VARIABLE: "/r/v0", TOKEN_VARIABLE: "t1"}
    parent, child = (start(env={**os.environ, **variables}) for _ in range(2))
    looks = iter([[psutil.Process(parent.pid)]])
    everything = psutil.process_iter
    monkeypatch.setattr(psutil, "process_iter", lambda: next(looks, None) or everything())
    # At first no program, then one that has begun in between.
    unseen = {"environ": [{}, {}, {}, {}], "cmdline": [[], [], ["sleep"], ["sleep"]]}

    def hide(name):
        shown, first = getattr(psutil.Process, name), unseen[name]

        def look(process):
            return first.pop(0) if first else shown(process)

        monkeypatch.setattr(psutil.Process, name, look)

    hide("environ")
    hide("cmdline")
    kill_processes_of("/r/v0", ["t1"])
    assert [parent.wait(10), child.wait(10)] == [-signal.SIGKILL] * 2
