"""Training that is interrupted and taken up again is the training that it would have been."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, DistributedSampler

from getiaction_launch import agreement, interruption, saver
from getiaction_launch.checkpoint import Interrupted, newest
from getiaction_launch.interruption import Interruption, callbacks
from getiaction_launch.loader import prepare_loader
from getiaction_launch.node import worker_environment
from getiaction_launch.plan import Plan, Topology
from getiaction_launch.run import Run
from getiaction_launch.shield import LoaderShield
from getiaction_launch.state import EXIT_INTERRUPTED
from getiaction_launch.storage import write_json

LIMIT_SECONDS = 60
BATCHES, EPOCHS = 5, 2


class ResumableLoader(DataLoader):
    """Carries its position; nothing is shuffled."""

    def __init__(self, dataset, **kwargs):
        # Else each iterator draws its seed from the global generator.
        super().__init__(dataset, **{"generator": torch.Generator(), **kwargs})
        self.seen = self.start = 0

    def __iter__(self):
        first, self.start = self.start, 0
        self.seen = first
        return self._batches(first)

    def _batches(self, first):
        for number, batch in enumerate(super().__iter__()):
            if number >= first:
                self.seen += 1
                yield batch

    def state_dict(self):
        """Say where it is."""
        return {"seen": self.seen, "rank": os.environ.get("RANK", "0")}

    def load_state_dict(self, state):
        """Go on there."""
        assert state["rank"] == os.environ.get("RANK", "0"), "the state of another rank's loader"
        self.start = state["seen"]


class Tiny(LightningModule):
    """Draws from every generator, logs, schedules, and keeps a mean of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        self.register_buffer("mean", torch.zeros(4, 4))
        self.on_step: Callable[[int], None] = lambda _: None

    def training_step(self, batch, batch_idx):
        """Use every generator."""
        del batch_idx
        self.on_step(self.trainer.fit_loop.total_batch_idx)
        draws = random.random() + np.random.rand()  # noqa: NPY002, S311 - the global ones
        loss = self.layer(batch).pow(2).mean() + self.layer[0].bias.sum() * draws
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """Run after every callback's."""
        del outputs, batch, batch_idx
        self.mean.mul_(0.9).add_(self.layer[0].weight.detach())

    def validation_step(self, batch, batch_idx):
        """Log something."""
        del batch_idx
        self.log("val", self.layer(batch).mean())

    def configure_optimizers(self):
        """One scheduler of each kind."""
        optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1)
        steps = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
        return [optimizer], [
            {"scheduler": plateau, "monitor": "val"},
            {"scheduler": steps, "interval": "step"},
        ]


@dataclass
class Worker:
    """This process, as a launched worker."""

    run: Run
    monkeypatch: pytest.MonkeyPatch

    def start(self, resume_from=None, period="inf"):
        """Be as a worker that has just started."""
        self.monkeypatch.setenv("GETIACTION_LAUNCH_CHECKPOINT_PERIOD_SECONDS", str(period))
        self.monkeypatch.setenv("GETIACTION_LAUNCH_RESUME_FROM", str(resume_from or ""))
        interruption._watch_fits.cache_clear()
        self.monkeypatch.setattr(Trainer, "fit", ORIGINAL_FIT)
        self.monkeypatch.setattr(Interruption, "is_requested", False)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def fit(self, stop_at=None, resume_from=None, period="inf", data=None, on_step=None, **words):
        """Fit a new model in a new worker; its final state, or None if it was interrupted."""
        self.start(resume_from, period)
        return self.fit_again(stop_at, data, on_step, **words)

    def fit_again(self, stop_at=None, data=None, on_step=None, ckpt_path=None, **words):
        """Fit a new model in the same worker."""
        seed_everything(1, verbose=False)
        model = Tiny()

        def interrupt(batch: int) -> None:
            if batch == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        model.on_step = on_step or interrupt
        directory = {"default_root_dir": str(self.run.directory)}
        trainer = Trainer(**{**QUIET, **directory, "max_epochs": EPOCHS, **words})
        seed_everything(2, verbose=False)
        try:
            trainer.fit(model, data or loader(), loader(), ckpt_path=ckpt_path)
        except Interrupted:
            return None
        return {
            **model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict()["state"],
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }


ORIGINAL_FIT = Trainer.fit
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def loader(**kwargs):
    """Five batches."""
    data = torch.rand(BATCHES * 2, 4, generator=torch.Generator().manual_seed(0))
    return ResumableLoader(data, batch_size=2, **kwargs)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """This process with a worker's environment."""
    run = Run(tmp_path / "tiny" / "version_0")
    run.launch_directory.mkdir(parents=True)
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(run.directory))
    monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", "0")
    monkeypatch.setenv("GETIACTION_LAUNCH_WORKER", str(os.getpid()))
    monkeypatch.setattr(agreement, "AGREEMENT_SECONDS", 0)  # before every batch
    before = signal.getsignal(signal.SIGTERM)
    yield Worker(run, monkeypatch)
    signal.signal(signal.SIGTERM, before)


def equal(a: Any, b: Any) -> bool:
    """Whether all tensors are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(
    "trainer_words",
    [
        {},
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2},
        {"limit_train_batches": 1, "max_epochs": 5},
        {
            "max_epochs": -1,
            "max_steps": 9,
            "check_val_every_n_epoch": None,
            "val_check_interval": 3,
        },
    ],
    ids=str,
)
def test_whichever_batch_it_is_interrupted_at_it_ends_the_same(worker, trainer_words):
    """Weights, optimizer and learning rate are bit for bit those of undisturbed training."""
    undisturbed = worker.fit(**trainer_words)
    steps = []
    for batch in range(BATCHES * EPOCHS):
        result = worker.fit(stop_at=batch, **trainer_words)
        if result is None:
            saved = newest(worker.run)
            steps.append(saved.step)
            result = worker.fit(resume_from=saved.path, **trainer_words)
        assert equal(result, undisturbed), batch
        for path in (worker.run.launch_directory / "checkpoints").glob("*"):
            path.unlink()
    assert len(steps) >= 4


def test_a_periodic_save_disturbs_nothing_and_two_stay(worker):
    """Training with a checkpoint before every batch ends as without; the last two are kept."""
    undisturbed = worker.fit()
    assert newest(worker.run) is None

    assert equal(worker.fit(period=0), undisturbed)

    names = sorted(p.name for p in (worker.run.launch_directory / "checkpoints").iterdir())
    assert names == [f"fit_0_step_{n}.{kind}" for n in (8, 9) for kind in ("ckpt", "json")]
    assert (newest(worker.run).reason, newest(worker.run).epoch) == ("period", 1)
    progress = worker.run.read("progress")
    assert (progress["phase"], progress["checkpoint_step"]) == ("finished", 9)


def test_the_fit_that_was_interrupted_resumes_and_not_the_one_before(worker):
    """A script that fits twice does its first fit again; its own ckpt_path loses in the second."""

    def script(stop_at=None):
        first = worker.fit_again()
        ckpt_path = worker.run.directory / "users_own.ckpt"
        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.strategy.connect(Tiny())
        trainer.save_checkpoint(ckpt_path)
        return first, worker.fit_again(stop_at=stop_at, ckpt_path=ckpt_path)

    worker.start()
    undisturbed = script()
    worker.start()
    assert script(stop_at=6)[1] is None
    saved = newest(worker.run)
    assert (saved.fit, saved.step) == (1, 7)
    users_own = torch.load(worker.run.directory / "users_own.ckpt", weights_only=True)
    assert "getiaction_launch" not in users_own  # it may have been saved on one rank alone

    worker.start(resume_from=saved.path, period=0)
    seen = []
    worker.monkeypatch.setattr(saver, "commit", lambda *_args, **words: seen.append(words))
    assert equal(dict(enumerate(script())), dict(enumerate(undisturbed)))
    assert [(words["fit"], words["step"]) for words in seen] == [(1, 8), (1, 9)]


def test_what_cannot_be_saved_is_told_and_training_goes_on(worker, capfd):
    """A full or broken disk costs the checkpoint, not the training; a request still ends it."""
    undisturbed = worker.fit()
    directory = worker.run.launch_directory / "checkpoints"
    directory.write_text("no directory")

    assert equal(worker.fit(period=0), undisturbed)

    assert "step 9 could not be saved: " in capfd.readouterr().err
    progress = worker.run.read("progress")
    assert "checkpoints" in progress["checkpoint_error"]
    assert worker.fit(stop_at=3) is None
    assert worker.run.read("progress")["phase"] == "interrupted"

    directory.unlink()
    (directory / "fit_0_step_4.json").mkdir(parents=True)  # in the marker's place
    assert worker.fit(stop_at=3) is None
    assert newest(worker.run) is None
    assert "fit_0_step_4.json" in worker.run.read("progress")["checkpoint_error"]


def test_a_loader_without_state_is_told_of(worker, capfd):
    """Whoever resumes an epoch whose data cannot go on hears it once, and no one else does."""
    data = torch.rand(10, 4)
    assert worker.fit(stop_at=2, data=DataLoader(data, batch_size=2)) is None
    assert worker.fit(resume_from=newest(worker.run).path, data=DataLoader(data, batch_size=2))
    assert capfd.readouterr().err.count("whose data loader cannot") == 1

    assert worker.fit(stop_at=2) is None
    assert worker.fit(resume_from=newest(worker.run).path)
    assert "whose data loader cannot" not in capfd.readouterr().err


def test_another_number_of_ranks_is_told_of(worker, capfd):
    """A checkpoint of two ranks resumes on one, which is said."""
    assert worker.fit(stop_at=2) is None
    saved = newest(worker.run)
    content = torch.load(saved.path, weights_only=True)
    content["getiaction_launch"]["ranks"] *= 2
    torch.save(content, saved.path)
    marker = {**vars(saved), "size_bytes": saved.path.stat().st_size}
    del marker["path"]
    write_json(saved.path.with_suffix(".json"), marker)

    assert worker.fit(resume_from=saved.path)

    assert "is of 2 ranks and training goes on with 1" in capfd.readouterr().err


def test_a_checkpoint_that_is_written_in_the_background_is_whole(worker):
    """Under AsyncCheckpointIO too, nothing counts before it has been written."""
    undisturbed = worker.fit()
    assert worker.fit(stop_at=2, plugins=[AsyncCheckpointIO()]) is None
    saved = newest(worker.run)
    assert saved.step == 3
    resumed = worker.fit(resume_from=saved.path, plugins=[AsyncCheckpointIO()], period=0)
    assert equal(resumed, undisturbed)
    assert newest(worker.run).step == 9


class DirectoryIO(TorchCheckpointIO):
    """Writes a directory, as sharded strategies do."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write a file in it."""
        assert not storage_options
        assert not Path(path).with_suffix(".json").exists()
        Path(path).mkdir(parents=True)
        torch.save(checkpoint, Path(path) / "all")

    def load_checkpoint(self, path, map_location=None, **words):
        """Read that."""
        return super().load_checkpoint(Path(path) / "all", map_location, **words)


def test_a_checkpoint_that_is_a_directory_resumes(worker):
    """It is committed when every rank has written its part, and training goes on from it."""
    undisturbed = worker.fit()
    assert worker.fit(stop_at=2, plugins=[DirectoryIO()]) is None
    saved = newest(worker.run)
    assert (saved.step, saved.path.is_dir()) == (3, True)
    assert worker.run.read("progress")["checkpoint_step"] == 3
    assert equal(worker.fit(resume_from=saved.path, plugins=[DirectoryIO()]), undisturbed)

    def refuse(self, decision, **_words):
        del self, decision
        return False  # what all ranks get where one of them could not write

    saved.path.with_suffix(".json").unlink()
    worker.monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", refuse)
    assert worker.fit(stop_at=2, plugins=[DirectoryIO()]) is None
    assert newest(worker.run) is None
    assert "another rank could not" in worker.run.read("progress")["checkpoint_error"]


class Gripper:
    """A class of the user's own."""


def test_a_users_own_class_does_not_keep_a_run_from_resuming(worker):
    """Plain checkpoints load with weights_only, those with objects of user classes without."""

    class Configured(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.hparams["gripper"] = Gripper()

    assert worker.fit(stop_at=2) is None
    assert interruption._can_load_weights_only(newest(worker.run).path)
    worker.monkeypatch.setitem(globals(), "Tiny", Configured)
    assert worker.fit(stop_at=4) is None
    assert worker.fit(resume_from=newest(worker.run).path)


def test_sigterm_is_a_request_in_training_alone(worker):
    """Before and after it SIGTERM does what it did; after an interruption it is ignored."""
    seen = {}

    class Noting(Tiny):
        def note(self, place):
            seen[place] = signal.getsignal(signal.SIGTERM)

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.note("sanity check" if self.trainer.sanity_checking else "validation")

        def on_train_end(self):
            self.note("train end")

    worker.monkeypatch.setitem(globals(), "Tiny", Noting)
    worker.fit()
    request, default = interruption._request, signal.SIG_DFL
    assert seen == {"sanity check": default, "validation": request, "train end": default}
    assert signal.getsignal(signal.SIGTERM) is default

    assert worker.fit(stop_at=1) is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_request_to_stop_early_survives(worker):
    """A Trainer that was to stop once it may, stops there after an interruption too."""

    class Stopping(Tiny):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            if self.global_step == 1:
                self.trainer.should_stop = True

    worker.monkeypatch.setitem(globals(), "Tiny", Stopping)
    undisturbed = worker.fit(max_epochs=3, min_epochs=1)
    assert worker.fit(stop_at=2, max_epochs=3, min_epochs=1) is None
    saved = newest(worker.run).path
    assert equal(worker.fit(resume_from=saved, max_epochs=3, min_epochs=1), undisturbed)


def test_a_plain_shuffled_loader_goes_on_with_the_next_epoch(worker):
    """Interrupted between two epochs, a DistributedSampler's order is that of the next epoch."""

    def data():
        plain = loader()
        sampler = DistributedSampler(plain.dataset, num_replicas=1, rank=0)
        return DataLoader(plain.dataset, batch_size=2, sampler=sampler, num_workers=1)

    undisturbed = worker.fit(data=data())
    assert worker.fit(stop_at=BATCHES - 1, data=data()) is None
    assert equal(worker.fit(resume_from=newest(worker.run).path, data=data()), undisturbed)


def test_lightnings_seeding_of_loader_processes_stays(worker):
    """Where Lightning would seed loader processes, they are still seeded; a user's own stays."""
    worker.monkeypatch.setenv("PL_SEED_WORKERS", "1")
    trainer = Trainer(**QUIET)
    seeded, own = loader(num_workers=1), loader(num_workers=1, worker_init_fn=print)
    prepare_loader(seeded, trainer)
    prepare_loader(own, trainer)
    assert seeded.worker_init_fn._init.func is pl_worker_init_function
    assert own.worker_init_fn._init is print


def test_no_other_process_gets_the_callbacks(worker):
    """What a worker starts inherits its environment and is not watched."""
    assert len(callbacks()) == 2
    worker.monkeypatch.setenv("GETIACTION_LAUNCH_WORKER", str(os.getppid()))
    assert callbacks() == []


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
    worker.monkeypatch.setattr(interruption, "_is_between_steps", lambda _: False)
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
    from getiaction_launch.loader import prepare_loader
    from test_interruption import QUIET, Stuck, await_that, field

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


def await_that(condition: Callable[[], object]) -> None:
    """Wait for it; fail after the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything

sys.path.insert(0, {tests!r})
from test_interruption import QUIET, Tiny, await_that, loader

rank, here = int(os.environ["RANK"]), Path({here!r})
seed_everything(rank, workers=True, verbose=False)
model = Tiny()
gate = sys.argv[1]

def wait(place):
    if place == gate and not (here / f"{{gate}}_{{rank}}").exists():
        (here / f"{{gate}}_{{rank}}").touch()
        await_that((here / f"go_{{rank}}").exists)

class Waiting(Tiny):
    def on_save_checkpoint(self, checkpoint):
        wait("save")
        wait(f"save_{{self.global_step}}")

model = Waiting()
model.on_step = lambda batch: wait(f"batch_{{batch}}")
Trainer(**QUIET, max_epochs=8, devices={devices}, strategy="ddp", default_root_dir=here).fit(
    model, loader(num_workers=2), loader()
)
torch.save(model.state_dict(), here / f"rank_{{rank}}_{{gate}}.pt")
"""


@dataclass
class Node:
    """Starts workers as a node does."""

    run: Run
    directory: Path
    devices: int

    def start(self, gate, resume_from=None, period="inf", attempt=0):
        """Start every worker; they will wait at the gate."""
        script = self.directory / "train.py"
        tests = str(Path(__file__).parent)
        script.write_text(
            SCRIPT.format(tests=tests, here=str(self.directory), devices=self.devices)
        )
        topology = Topology(1, self.devices, 0)
        plan = Plan(
            name="tiny",
            words=[],
            root=str(self.directory),
            arguments=[],
            script=[str(script), gate],
            topology=topology,
            working_directory=tests,
        )
        self.run.write("plan", plan.to_json())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            head = f"127.0.0.1:{probe.getsockname()[1]}"
        variables = {
            "GETIACTION_RUN_DIR": str(self.run.directory),
            "GETIACTION_LAUNCH_ATTEMPT": str(attempt),
            "GETIACTION_LAUNCH_CHECKPOINT_PERIOD_SECONDS": str(period),
            "OMP_NUM_THREADS": "1",
        }
        if resume_from:
            variables["GETIACTION_LAUNCH_RESUME_FROM"] = str(resume_from)
        return [
            subprocess.Popen(
                [sys.executable, "-m", "getiaction_launch.worker", str(self.run.directory)],
                env={
                    **os.environ,
                    **variables,
                    **worker_environment(topology, 0, rank, head, "test"),
                },
                start_new_session=True,
            )
            for rank in range(self.devices)
        ]

    def await_gate(self, gate, workers):
        """Wait until all are there."""

        def is_there():
            assert all(worker.poll() is None for worker in workers)
            return all((self.directory / f"{gate}_{r}").exists() for r in range(len(workers)))

        await_that(is_there)

    def open_gate(self):
        """Let them go on."""
        for rank in range(self.devices):
            (self.directory / f"go_{rank}").touch()


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    """So many workers of a new run."""
    run = Run(tmp_path / "tiny" / "version_0")
    run.launch_directory.mkdir(parents=True)
    return Node(run, tmp_path, request.param)


def ends(workers) -> list[int]:
    """Wait for the exit codes."""
    try:
        return [worker.wait(LIMIT_SECONDS) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.parametrize("node", [2], indirect=True)
def test_two_ranks_agree_save_stop_and_resume(node):
    """One rank's SIGTERM, with one to every loader process, stops both; the end is the same.

    The training that it is compared with could not save any of its checkpoints.
    """
    gate = "batch_4"
    node.open_gate()
    blockade = node.run.launch_directory / "checkpoints"
    blockade.write_text("no directory")
    assert ends(node.start("none", period=0)) == [0, 0]
    assert "checkpoints" in node.run.read("progress")["checkpoint_error"]
    blockade.unlink()
    for rank in range(2):
        (node.directory / f"go_{rank}").unlink()

    workers = node.start(gate, period=0)
    node.await_gate(gate, workers)
    loaders = [p for w in workers for p in psutil.Process(w.pid).children(recursive=True)]
    assert len(loaders) == 4
    for process in [*loaders, workers[1]]:
        process.send_signal(signal.SIGTERM)
    node.open_gate()
    assert ends(workers) == [EXIT_INTERRUPTED] * 2

    saved = newest(node.run)
    assert (saved.reason, saved.attempt) == ("interruption", 0)
    assert saved.step > 4
    assert not list(node.run.log_directory(0).glob("error*"))
    assert node.run.read("progress")["phase"] == "interrupted"

    assert ends(node.start("resumed", saved.path, attempt=1)) == [0, 0]
    progress = node.run.read("progress")
    assert progress["first_step"] == saved.step
    assert (progress["step"], progress["total_steps"]) == (24, 24)
    for rank in range(2):
        resumed = torch.load(node.directory / f"rank_{rank}_resumed.pt")
        assert equal(resumed, torch.load(node.directory / f"rank_{rank}_none.pt"))


@pytest.mark.parametrize("node", [1], indirect=True)
def test_a_save_that_is_killed_leaves_the_checkpoint_before_it(node):
    """SIGKILL in the middle of a save: the newest committed checkpoint is the one before."""
    # Of the first agreements one comes at the epoch's end, and the others when steps are fast.
    workers = node.start("save_5", period=0)
    node.await_gate("save_5", workers)
    await_that(lambda: newest(node.run))
    assert node.run.read("progress")["phase"] == "saving"
    workers[0].kill()
    assert ends(workers) == [-signal.SIGKILL]
    assert 0 < newest(node.run).step < 5


@pytest.mark.parametrize("node", [2], indirect=True)
def test_a_checkpoint_in_flight_when_another_rank_dies_counts(node):
    """Rank 0 commits the file once it is whole, and only then meets that rank 1 has gone."""
    workers = node.start("save", period=0)
    node.await_gate("save", workers)
    progress = node.run.read("progress")
    assert progress["phase"] == "saving"
    workers[1].kill()
    workers[1].wait(LIMIT_SECONDS)
    node.open_gate()
    assert ends(workers) == [1, -signal.SIGKILL]

    saved = newest(node.run)
    assert saved.step == progress["step"]
    names = {path.name for path in saved.path.parent.iterdir()}
    assert names == {f"fit_0_step_{saved.step}.{kind}" for kind in ("ckpt", "json")}
    progress = node.run.read("progress")
    assert (progress["phase"], progress["checkpoint_step"]) == ("training", saved.step)
    assert progress["checkpoint_error"] is None
