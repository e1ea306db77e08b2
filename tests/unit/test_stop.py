"""Requests to stop: SIGHUP means SIGTERM, unless nohup has had it ignored."""

import os
import signal
import subprocess
import sys

import pytest

from getiaction_launch.system.stop import StopRequest, on_sigterm


@pytest.fixture(autouse=True)
def _no_nohup():
    """The tests may run under nohup(1), which has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_hangup_and_what_follows_it_are_one_request():
    """Systemd sends SIGTERM and SIGHUP to all processes of a session at its end."""
    before = signal.getsignal(signal.SIGHUP)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) is before


WAITS = """
import subprocess, sys
from getiaction_launch.system.stop import StopRequest
stop = StopRequest()
with subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE) as child:
    ends = {"child": child.poll, "signal": lambda: stop.signal}[sys.argv[1]]
    while ends() is None:
        stop.wait(3600)
"""
SIGNALS = "import os, signal, sys; os.kill(os.getppid(), signal.SIGTERM); sys.stdin.read()"


@pytest.mark.parametrize(("what", "code"), [("child", ""), ("signal", SIGNALS)], ids=["c", "s"])
def test_a_sleep_ends_with_what_is_awaited(what, code):
    """A node must pass a signal on, and see the end of its workers, as soon as they come."""
    child = [sys.executable, "-c", code]
    subprocess.run([sys.executable, "-c", WAITS, what, *child], check=True, timeout=60)


CODE = """
import os, signal, sys
from getiaction_launch.system.stop import StopRequest, on_sigterm
stop = StopRequest() if sys.argv[1] == "request" else on_sigterm(lambda *_: print("asked"))
os.kill(os.getpid(), signal.SIGHUP)
print(stop and stop.signal)
"""


@pytest.mark.parametrize("kind", ["request", "handler"])
@pytest.mark.parametrize("is_ignored", [True, False])
def test_nohup_stays_nohup(kind, is_ignored):
    """A process whose SIGHUP is ignored does not stop because of it."""

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", CODE, kind],
        preexec_fn=ignore if is_ignored else None,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = {("request", False): "15\n", ("handler", False): "asked\nNone\n"}
    got = done.stdout.replace("Signals.SIGTERM", "15").replace("<15: 15>", "15")
    assert got == wanted.get((kind, is_ignored), "None\n")


def test_handler_is_set_for_both_signals(monkeypatch):
    """So whichever comes first, the second does not end a process that is saving."""
    set_for = []
    monkeypatch.setattr(signal, "signal", lambda signum, _: set_for.append(signum))
    on_sigterm(signal.SIG_IGN)
    assert set_for == [signal.SIGTERM, signal.SIGHUP]
