"""A loader's processes survive the signals of schedulers, and end with their worker."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Trainer
from tiny import (
    LIMIT_SECONDS,
    QUIET,
    loader,
)

from getiaction_launch.worker import interruption
from getiaction_launch.worker.loaders import LoaderShield, prepare_loader


def test_lightnings_seeding_of_loader_processes_stays(worker):
    """Where Lightning would seed loader processes, they are still seeded; a user's own stays."""
    worker.start()
    worker.monkeypatch.setenv("PL_SEED_WORKERS", "1")
    trainer = Trainer(**QUIET)
    seeded, own = loader(num_workers=1), loader(num_workers=1, worker_init_fn=print)
    prepare_loader(seeded, trainer)
    prepare_loader(own, trainer)
    assert seeded.worker_init_fn._init.func is pl_worker_init_function
    assert own.worker_init_fn._init is print


def test_what_loader_processes_import_is_light():
    """A spawned loader process imports this module; Lightning would cost each of them seconds."""
    heavy = "{'torch', 'lightning', 'numpy'} & set(sys.modules)"
    code = f"import sys, getiaction_launch.worker.loaders\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("is_persistent", [False, True])
def test_loader_processes_survive_a_schedulers_sigterm(worker, is_persistent):
    """SIGTERM sent by another process to every loader process does not end training."""
    told = []

    def send(batch: int) -> None:
        if batch == 2:
            told.extend(process.pid for process in multiprocessing.active_children())
            send_sigterm_from_outside(told)

    words = {"num_workers": 2, "persistent_workers": is_persistent}
    assert worker.fit(data=loader(**words), on_step=send)

    assert len(told) == 2
    assert not any(psutil.pid_exists(pid) for pid in told)


def test_a_loader_process_that_dies_of_the_same_sigterm_is_no_crash(worker):
    """Where SIGTERM comes before a new loader process is shielded, training is interrupted."""

    def send(batch: int) -> None:
        if batch == 2:
            pids = [process.pid for process in multiprocessing.active_children()]
            send_sigterm_from_outside([os.getpid(), *pids])

    worker.monkeypatch.setattr(LoaderShield, "__call__", lambda *_: None)
    worker.monkeypatch.setattr(interruption, "is_between_steps", lambda _: False)
    assert worker.fit(data=loader(num_workers=1), on_step=send) is None
    worker.monkeypatch.setattr(interruption, "_request", lambda *_: None)
    with pytest.raises((RuntimeError, OSError, EOFError)):
        worker.fit(data=loader(num_workers=1), on_step=send)


def send_sigterm_from_outside(pids: list[int]) -> None:
    """As a scheduler does; PyTorch's loader processes leave by SIGTERM of their parent."""
    script = "import os, sys; [os.kill(int(pid), 15) for pid in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", script, *map(str, pids)], check=True)


class Stuck(torch.utils.data.Dataset):
    """Never gives a sample."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(10 * LIMIT_SECONDS)
        return index


STUCK = """
import signal, sys
from pathlib import Path
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

if __name__ == "__main__":
    sys.path.insert(0, {tests!r})
    from getiaction_launch.worker.loaders import prepare_loader
    from test_loader_processes import Stuck, field
    from tiny import QUIET, await_that

    loader = DataLoader(Stuck(), num_workers=1, multiprocessing_context={method!r})
    prepare_loader(loader, Trainer(**QUIET))
    iterator = iter(loader)
    status = Path(f"/proc/{{iterator._workers[0].pid}}/status")
    await_that(lambda: int(field(status, "SigIgn"), 16) & 1 << (signal.SIGTERM - 1))
    print("at the end")
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_stuck_loader_process_is_ended_with_its_parent(method, tmp_path):
    """Python terminates a loader process that hangs, then waits for its end without a limit."""
    script = tmp_path / "stuck.py"
    script.write_text(STUCK.format(tests=str(Path(__file__).parent), method=method))
    words = [sys.executable, str(script)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "at the end\n"
        assert process.wait(LIMIT_SECONDS) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def field(status: Path, name: str) -> str:
    """Read a line of /proc/PID/status."""
    return status.read_text().split(f"{name}:")[1].split()[0]
