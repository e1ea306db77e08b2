"""The program that hangs.py trains: a tiny model, and one rank that comes to grief.

HANGS_CASE says which rank does what, and where: the fields of ``Case`` in hangs.py, as JSON. What
has happened is noted in ``planted``, with the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import importlib
import itertools
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASE: dict[str, Any] = json.loads(os.environ["HANGS_CASE"])
RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
IS_VICTIM = CASE["rank"] == RANK
PACE_SECONDS = 0.02
"""What a forward pass takes at least, so that a slow one can be compared with it."""
SLOW_SECONDS = 0.15
EPOCH = 6  # batches
CHUNK_BYTES = 64 << 20
SPARE_BYTES = 512 << 20
libc = ctypes.CDLL(None)


def in_a_lock() -> None:
    """Take a lock that this thread has already."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def in_a_loop() -> None:
    """Never end."""
    while True:
        sum(range(1000))


def at_a_queue() -> None:
    """Wait for what nobody puts there."""
    queue.Queue[int]().get()


def for_a_thread() -> None:
    """Wait for a thread that does not end."""
    thread = threading.Thread(target=lambda: time.sleep(3600), daemon=True)
    thread.start()
    thread.join()


def in_c_with_the_lock() -> None:
    """Call C code that keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(3600)


def in_c() -> None:
    """Call C code that releases the interpreter's lock."""
    libc.sleep(3600)


def at_a_pipe() -> None:
    """Read a file that never answers, as on storage that hangs."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo("no_answer")
    Path("no_answer").read_bytes()


def stopped() -> None:
    """Be stopped, as by a debugger."""
    os.kill(os.getpid(), signal.SIGSTOP)


def in_a_barrier() -> None:
    """Wait for all ranks, which do not come."""
    import torch

    torch.distributed.barrier(group=groups[0])


def in_a_reduction() -> None:
    """Reduce something among all ranks, which they do not."""
    import torch

    torch.distributed.all_reduce(torch.ones(1), group=groups[0])


def in_a_gathering() -> None:
    """Gather objects of all ranks, which they do not."""
    import torch

    torch.distributed.all_gather_object([None] * WORLD_SIZE, {}, group=groups[0])


def value_error() -> None:
    """Fail as a program does whose data is not what it believes."""
    raise ValueError("no gripper in episode 7")


def index_error() -> None:
    """Fail as a program does that looks too far."""
    [].pop()


def missing_module() -> None:
    """Import what is not installed where this rank runs."""
    importlib.import_module("no_such_gripper")


def missing_library() -> None:
    """Load a library that is not installed there."""
    ctypes.CDLL("libno_such_gripper.so")


def leaves() -> None:
    """Leave without a word, as some C libraries do."""
    os._exit(3)


def exits() -> None:
    """Leave as a program does that gives up."""
    sys.exit("the simulator has no licence")


def segmentation_fault() -> None:
    """Crash in compiled code."""
    ctypes.string_at(0)


def aborts() -> None:
    """Crash as an assertion in C++ does."""
    libc.abort()


def illegal_instruction() -> None:
    """Crash as a library does that was compiled for another CPU."""
    os.kill(os.getpid(), signal.SIGILL)


def kills_itself() -> None:
    """Be killed by a signal that nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory() -> None:
    used = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))


def memory_error() -> None:
    """Ask for more memory than a limit of the process allows."""
    _limit_memory()
    bytearray(4 * SPARE_BYTES)


def memory_of_torch() -> None:
    """Have torch ask for it."""
    import torch

    _limit_memory()
    torch.zeros(4 * SPARE_BYTES, dtype=torch.uint8)


def memory_of_the_group() -> None:
    """Use memory until the kernel kills a process of the control group."""
    taken = []
    while True:
        taken.append(bytearray(b"x") * CHUNK_BYTES)


def full_disk() -> None:
    """Write until the disk is full."""
    with Path("disk/metrics.csv").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()


def full_disk_of_torch() -> None:
    """Have torch write a file that is larger than the disk."""
    import torch

    torch.save(torch.ones(CHUNK_BYTES), "disk/weights.pt")


def full_disk_of_numpy() -> None:
    """Have numpy write a file that is larger than the disk."""
    import numpy as np

    np.save("disk/episode.npy", np.ones(CHUNK_BYTES))


def fewer_batches() -> None:
    """Have less data than the others."""


def nothing() -> None:
    """Be healthy."""


def slow() -> None:
    """Take longer than the others."""
    time.sleep(SLOW_SECONDS)


def busy() -> None:
    """Compute for longer than the others."""
    end = time.thread_time() + SLOW_SECONDS
    while time.thread_time() < end:
        pass


groups: list[Any] = []
done, items = itertools.count(), itertools.count()


def at(place: str, step: int) -> None:
    """Do the case's deed if this is its rank, place and step; a slow rank does it ever again.

    Args:
        place: Where the program is.
        step: How often this rank has been there.
    """
    if not IS_VICTIM or place != CASE["place"] or step < CASE["step"]:
        return
    if next(done) == 0:
        Path("planted").write_text(str(time.time()), encoding="utf-8")
    elif not CASE["lasts"]:
        return
    deed: Callable[[], None] = globals()[CASE["deed"]]
    deed()


def plain() -> None:
    """Train without Lightning, as torch's tutorials do."""
    import torch

    at("start", 0)
    torch.distributed.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in itertools.count():
        at("fetching", step)
        loss = model(torch.ones(2, 4)).sum()
        time.sleep(PACE_SECONDS)
        at("forward", step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        Path(f"step_{RANK}").write_text(str(step), encoding="utf-8")


def lightning() -> None:  # noqa: C901 - each hook is a place
    """Train with Lightning's own Trainer, which knows nothing of the launcher."""
    at("start", 0)
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy

    class Data(torch.utils.data.Dataset[torch.Tensor]):
        """Items that one rank cannot always have."""

        def __len__(self) -> int:
            return 2 * EPOCH * WORLD_SIZE

        def __getitem__(self, index: int) -> torch.Tensor:
            is_apart = torch.utils.data.get_worker_info() is not None
            at("loader" if is_apart else "fetching", next(items) // 2)
            return torch.ones(4)

    class Stream(torch.utils.data.IterableDataset[torch.Tensor]):
        """The same as a stream."""

        def __iter__(self) -> Iterator[torch.Tensor]:
            at("stream", 0)
            has_less = IS_VICTIM and CASE["deed"] == "fewer_batches"
            for _ in range(EPOCH if has_less else 2 * EPOCH):
                yield torch.ones(4)

    class Module(LightningDataModule):
        """The loaders of both."""

        def setup(self, stage: str) -> None:
            del stage
            at("setup", 0)

        def train_dataloader(self) -> Any:  # noqa: ANN401 - as in Lightning
            data = Stream() if CASE["place"] == "stream" else Data()
            apart: Any = {"num_workers": 1, "persistent_workers": True}
            more = apart if CASE["place"] == "loader" else {}
            return torch.utils.data.DataLoader(data, batch_size=2, **more)

        def val_dataloader(self) -> Any:  # noqa: ANN401 - as in Lightning
            batches: Any = list(torch.ones(2, 4))
            return torch.utils.data.DataLoader(batches)

    class Model(LightningModule):
        """One layer."""

        steps = 0

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            del batch_idx
            time.sleep(PACE_SECONDS)
            at("forward", self.steps)
            result: torch.Tensor = self.layer(batch)
            register: Any = result.register_hook  # has no types
            register(lambda _: at("backward", self.steps))
            return result.sum()

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            del batch, batch_idx
            at("validating", self.steps)

        def on_train_epoch_end(self) -> None:
            at("epoch-end", self.steps)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            del checkpoint
            at("saving", self.steps)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Steps(Callback):
        """Counts steps, saves at the end of an epoch, and makes a second group of ranks."""

        def on_train_start(self, *_: object) -> None:
            groups.append(torch.distributed.new_group())

        def on_train_batch_end(self, *_: object) -> None:
            model.steps += 1
            Path(f"step_{RANK}").write_text(str(model.steps), encoding="utf-8")
            at("between-steps", model.steps)

        def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
            if CASE["place"] == "saving":
                trainer.save_checkpoint("last.ckpt")

    model = Model()
    torch.set_num_threads(1)
    Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=WORLD_SIZE // int(os.environ["LOCAL_WORLD_SIZE"]),
        max_epochs=100_000,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=1 if CASE["place"] == "validating" else 10**9,
        logger=False,
        callbacks=[Steps()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        strategy=DDPStrategy(timeout=dt.timedelta(seconds=CASE["timeout_seconds"])),
    ).fit(model, datamodule=Module())


if __name__ == "__main__":
    globals()[CASE["program"]]()
