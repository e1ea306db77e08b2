"""What a drill's workers record, in this process: whose a difference is, and that none is added."""

import contextlib
import itertools
import os
import random
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, Trainer
from tiny import BATCHES, QUIET, Tiny, at, equal, fit, loader
from torch.utils.data import DataLoader, Sampler

from getiaction_launch.drill.job import DrillNodes
from getiaction_launch.drill.judgement import Trained, Volatile, judge_program, judge_resume
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.rehearsal.orders import (
    ORDERS_VARIABLE,
    Orders,
    drill_directory,
    fault_path,
)
from getiaction_launch.run.rehearsal.trajectory import FaultNote, read_attempts_of
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause
from getiaction_launch.worker.assignment import own_run
from getiaction_launch.worker.interruption import Interruption
from getiaction_launch.worker.rehearsal import lightning_seams as seams
from getiaction_launch.worker.rehearsal import rehearsal
from getiaction_launch.worker.rehearsal.digests import attributes, digest

ORDERS = Orders(most_steps=100, is_detailed=True)
STOP_AT = BATCHES + 2  # in the second epoch


class OwnOrder(Sampler):
    """Draws each epoch's order from a generator of its own."""

    def __init__(self, seed) -> None:
        self.order = random.Random(seed)  # noqa: S311 - no secret

    def __len__(self) -> int:
        return BATCHES * 2

    def __iter__(self):
        numbers = list(range(BATCHES * 2))
        self.order.shuffle(numbers)
        return iter(numbers)


def ordered(seed) -> DataLoader:
    """A loader without state, in an order of its own."""
    return DataLoader(loader().dataset, batch_size=2, sampler=OwnOrder(seed))


class Warmup(Callback):
    """Counts the steps and does not save the count."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_start(self, trainer, *_) -> None:
        """Use the count."""
        self.count += 1
        trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5 * self.count


class Noisy(Tiny):
    """Draws from a generator that the module does not save."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = np.random.default_rng(0)

    def training_step(self, batch, batch_idx):
        """Train on noise."""
        return super().training_step(batch + float(self.noise.random()), batch_idx)


class Unseeded(Tiny):
    """Begins with other numbers of NumPy's in each process."""

    def on_fit_start(self) -> None:
        """Forget the seed."""
        np.random.seed(time.perf_counter_ns() % 2**32)  # noqa: NPY002 - the global one


class Touched(Tiny):
    """Changes its weights whenever training begins."""

    def on_train_start(self) -> None:
        """Change them."""
        self.layer[0].bias.data.add_(0.1)


@pytest.fixture
def train(worker, monkeypatch, tmp_path):
    """Train in a run of its own as a drill's worker, which may be interrupted, and record it."""
    numbers = itertools.count()

    def start(attempt: int) -> None:
        monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(attempt))
        monkeypatch.setattr(rehearsal, "_fits", itertools.count())

    def run(stop_at=None, make=dict, **words) -> Trained:
        worker.run = Run(tmp_path / f"run_{next(numbers)}" / "version_0")
        worker.run.launch_directory.mkdir(parents=True)
        monkeypatch.setenv("GETIACTION_RUN_DIR", str(worker.run.directory))
        monkeypatch.setenv(ORDERS_VARIABLE, ORDERS.to_env()[ORDERS_VARIABLE])
        start(0)
        if worker.fit(stop_at=stop_at, **words, **make()) is None:
            start(1)
            worker.fit(resume_from=newest(worker.run).path, **words, **make())
        return Trained(read_attempts_of(worker.run))

    return run


def judged(train, **words):
    """Compare a training that is interrupted with one that is not, as a drill does."""
    expected, trained, volatile = train(**words), train(stop_at=STOP_AT, **words), Volatile()
    difference = judge_program(expected.ranks, trained.undisturbed, volatile)
    assert difference is None, difference
    return judge_resume(expected.ranks, trained, volatile)


def test_a_training_that_resumes_exactly_has_no_difference(train):
    """Also if it logs times, which differ in each run."""

    class Timed(Tiny):
        def on_train_batch_start(self, *_) -> None:
            self.log("time", time.perf_counter())

    assert judged(train, kind=Timed) is None


@pytest.mark.parametrize(
    ("words", "owner", "part"),
    [
        ({"make": lambda: {"data": ordered(0)}}, "loader", None),
        ({"make": lambda: {"callbacks": [Warmup()]}}, "callback", "callback Warmup.count"),
        ({"kind": Noisy}, "module", "module Noisy.noise (a random generator)"),
        ({"kind": Touched}, "weights", "weights layer.0.bias"),
    ],
    ids=["loader", "callback", "module", "weights"],
)
def test_who_does_not_resume_is_named(train, words, owner, part):
    """With the state that is not in the checkpoint, and where it is first seen."""
    difference = judged(train, **words)
    assert (difference.owner, difference.rank) == (owner, 0)
    assert STOP_AT < difference.step <= STOP_AT + 3
    assert part is None or difference.parts == [part]
    assert part or "DataLoader (sampler OwnOrder, dataset Tensor)" in difference.what


@pytest.mark.parametrize(
    ("words", "owner", "named"),
    [
        ({"kind": Unseeded}, "randomness", "NumPy's global generator"),
        ({"make": lambda: {"data": ordered(None)}}, "loader", "sampler OwnOrder"),
    ],
    ids=["numpy", "order"],
)
def test_a_program_that_differs_from_itself_is_not_blamed_for_resuming(train, words, owner, named):
    """What is not seeded is named by what differs before any fault."""
    expected, trained = train(**words), train(stop_at=STOP_AT, **words)
    difference = judge_program(expected.ranks, trained.undisturbed, Volatile())
    assert (difference.owner, difference.step) == (owner, 1)
    assert named in difference.what
    assert "seed_everything" in difference.fix


def test_recording_changes_nothing(worker, train):
    """Weights and optimizer are those of a worker that belongs to no drill."""
    train()
    recorded = worker.fit()
    worker.monkeypatch.delenv(ORDERS_VARIABLE)
    assert equal(worker.fit(), recorded)


def test_the_drill_saves_in_the_ordered_step_only(worker, train, monkeypatch):
    """Whatever the period says."""
    monkeypatch.setattr(f"{__name__}.ORDERS", replace(ORDERS, saves=[4]))
    train(period=0)
    assert newest(worker.run).step == 4


def test_digests_follow_the_content():
    """Equal content has equal digests, in whatever order a mapping has it."""
    content = {"a": torch.arange(3), "b": [1, "x", None], "c": np.ones(2), "d": {1, 2}}
    assert digest(content) == digest(dict(reversed(content.items())))
    for other in (torch.arange(3.0), torch.arange(4), [1], "a"):
        assert digest({**content, "a": other}) != digest(content)
    assert digest(torch.zeros(2, dtype=torch.bfloat16)) != digest(torch.zeros(2))
    assert digest(random.Random(1)) != digest(random.Random(2))  # noqa: S311 - no secrets


def test_attributes_leave_out_what_is_large_or_of_a_library():
    """Random generators are found, also in objects of the user's own."""

    class Inner:
        def __init__(self) -> None:
            self.rng = random.Random(0)  # noqa: S311 - no secret

    owner = Inner()
    owner.inner, owner.size, owner.data = Inner(), 3, torch.zeros(2**21)
    names = {name for name, _ in attributes(owner)}
    assert names == {"rng (a random generator)", "inner.rng (a random generator)", "size"}


def test_a_fit_is_shortened_to_two_epochs_with_validation():
    """Half of the steps in each, and never more than the user's own limits allow."""
    seen = {}

    class Shortened(Callback):
        def setup(self, trainer, pl_module, stage) -> None:
            del pl_module, stage
            seams.shorten(trainer, 4)

        def on_train_start(self, trainer, *_) -> None:
            seams.end_early(trainer, 4)

    def note(_):
        seen["val"] = seen.get("val", 0) + 1

    words = {"max_epochs": 50, "check_val_every_n_epoch": 10, "num_sanity_val_steps": 0}
    trainer = fit(Shortened(), at("on_validation_batch_start", note), **words)
    assert (trainer.global_step, trainer.current_epoch, seen["val"]) == (4, 2, 4)
    trainer = fit(Shortened(), max_epochs=1, limit_train_batches=1)
    assert trainer.global_step == 1


def test_the_users_sampler_is_found_in_that_of_a_rank():
    """Lightning wraps it; one of torch's own stands for itself."""
    own = OwnOrder(0)
    wrapped = DistributedSamplerWrapper(own, num_replicas=2, rank=0)
    assert seams.users_sampler(wrapped) is seams.users_sampler(own) is own


def test_means_over_an_epoch_are_known_by_their_names():
    """Those of the training step, under the names that loggers get."""
    found = set()

    class Means(Tiny):
        def training_step(self, batch, batch_idx):
            self.log("both", 1.0, on_step=True, on_epoch=True)
            self.log("mean", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    def note(trainer):
        found.update(seams.epoch_means(trainer))

    trainer = Trainer(**QUIET, max_epochs=1, callbacks=[at("on_train_batch_end", note)])
    trainer.fit(Means(), loader(), loader())
    assert found == {"both_epoch", "mean"}


def test_a_warning_is_a_signal_to_the_node_after_which_its_worker_waits(train, monkeypatch):
    """In the ordered step; the note of it says so, and which checkpoints had been committed."""
    sent = []

    def kill(pid, signum):
        sent.append((pid, signum))
        monkeypatch.setattr(Interruption, "is_requested", True)  # as the node's SIGTERM does

    orders = replace(ORDERS, fault="warning", steps=[3], saves=[2])
    monkeypatch.setattr(f"{__name__}.ORDERS", orders)
    monkeypatch.setattr("getiaction_launch.worker.rehearsal.faults.os.kill", kill)
    trained = train()
    assert sent == [(os.getppid(), signal.SIGUSR2)]
    assert [row.step for row in trained.attempts[0][0]] == [1, 2, 3]
    run = own_run()
    assert FaultNote.read(run, 0) == FaultNote(3, "SIGUSR2 to the process of every node", [2])


@pytest.mark.parametrize(
    ("fault", "codes", "cause"),
    [
        ("warning", [None, 75], None),
        ("warning", [75, 75], Cause.TIME_LIMIT),
        ("sigterm", [75, 75], Cause.PREEMPTION),
        ("time-limit", [None, None], Cause.TIME_LIMIT),
        ("lost-rank", [1, 1], None),
    ],
)
def test_the_job_of_a_drill_says_what_a_scheduler_would(tmp_path, fault, codes, cause):
    """Signals are explained when all nodes have ended; the time limit is why they must end."""
    run = Run(tmp_path / "version_0")
    run.launch_directory.mkdir(parents=True)
    topology, env = Topology(2, 1, 0), Orders(fault, [3]).to_env()
    run.write("plan", Plan("x", "", [], ["x.py"], topology, "", env_vars=env).to_json())
    nodes = DrillNodes(run, 1, 1, contextlib.ExitStack())
    nodes._fault_path = fault_path(run, 0)
    nodes._handles = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    assert nodes.stop_cause() is None
    drill_directory(run).mkdir()
    FaultNote(3).write(run, 0)
    assert nodes.stop_cause() is cause
