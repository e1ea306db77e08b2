"""A run is killed at any touch of the disk, and no checkpoint of it is torn."""

import re
import signal
import subprocess
import sys

import torch

from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run

DYING = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from getiaction_launch.run.checkpoint import commit, partial_path
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO, SaveRequest
from getiaction_launch.worker.progress import ProgressReport
from getiaction_launch.run.run import Run

real_save = torch.save
EVENTS = ("open", "os.rename", "os.remove", "os.listdir", "os.scandir", "os.mkdir")
torch.set_num_threads(1)

def save(run, told, kill_at):
    touches = itertools.count(1)

    def touch():
        if next(touches) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def strike(event, arguments):
        if event in EVENTS and str(run.directory) in str(arguments[0]):
            touch()

    class Watched:
        def __init__(self, file):
            self.file, self.flush = file, file.flush

        def write(self, content):
            touch()
            return self.file.write(content)

    io = BackgroundCheckpointIO(TorchCheckpointIO(), ProgressReport(run), run, lambda _: True)
    weight = torch.zeros(50_000)
    # The first is saved in peace.
    for step in range(1, 4):
        weight.fill_(step)

        def finish(step=step):
            commit(run, attempt=0, fit=0, step=step, epoch=0, reason="period", saved_at=step)
            os.write(told, b"%d" % step)

        request = SaveRequest(finish, print)
        io.save_later({"weight": weight, "step": step}, partial_path(run, 0, step), request)
        io.save_checkpoint({"weight": weight, "step": step}, run.directory / "last.ckpt")
        if step == 1:
            io.wait()
            sys.addaudithook(strike)
            torch.save = lambda content, file: real_save(content, Watched(file))
    io.close()

for number in range(1, int(sys.argv[2]), 3):
    run = Run(Path(sys.argv[1], str(number)))
    run.launch_directory.mkdir(parents=True)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        save(run, write, number)
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    print(number, code, os.read(read, 100).decode()[-1], flush=True)
    if not code:
        break
"""


def test_a_kill_at_whichever_touch_of_the_disk_tears_nothing(tmp_path):
    """SIGKILL before every third opening, writing, renaming and removing of a file, one per run.

    Each time the newest checkpoint is whole and at least as new as the last that was told to be
    committed, and ``last.ckpt`` is an old one or a new one.
    """
    words = [sys.executable, "-c", DYING, str(tmp_path), "300"]
    ends = subprocess.run(words, check=True, capture_output=True, text=True, timeout=200).stdout
    killed = 0
    for number, code, committed in re.findall(r"(\d+) (-?\d+) (\d)", ends):
        run = Run(tmp_path / number)
        saved = newest(run)
        content = torch.load(saved.path, weights_only=True)
        assert content["step"] == saved.step >= int(committed), number
        last = torch.load(run.directory / "last.ckpt", weights_only=True)
        for whole in (content, last):
            assert torch.equal(whole["weight"], torch.full((50_000,), float(whole["step"])))
        assert int(code) == -signal.SIGKILL or (int(code), saved.step) == (0, 3)
        killed += int(code) == -signal.SIGKILL
    assert 20 < killed < 99
