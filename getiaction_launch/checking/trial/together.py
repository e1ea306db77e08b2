"""Two ranks train what one has trained alone without a fault.

What a run of several ranks needs shows only here: as many batches on each, the same collectives.
"""

from dataclasses import replace
from typing import Any, NoReturn

from getiaction_launch.checking.apart.pair import TWO, Pair
from getiaction_launch.checking.blame import blame
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal, unknown
from getiaction_launch.checking.trial.batches import hash_of
from getiaction_launch.checking.trial.step import Trial
from getiaction_launch.checking.trial.trainer import TRIAL_BATCHES, trial_trainer

LARGEST_BYTES = 512 << 20
"""Weights that are trained twice at once without being asked for."""
_LONGEST = 300
_OF_GLOO = ("gloo", "nccl", "backend", "timed out")


def can_train_together(built: Built, *, is_deep: bool) -> bool:
    """Return whether two ranks on CPUs train as those of the run would.

    Args:
        built: What a spec names, or what a script has given to ``Trainer.fit``.
        is_deep: Whether to try a model of any size.
    """
    from lightning.pytorch.strategies import DDPStrategy

    weights = built.model.parameters()
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return type(built.trainer.strategy) is DDPStrategy and (size <= LARGEST_BYTES or is_deep)


def lead(built: Built, trial: Trial, pair: Pair) -> None:
    """Train as rank 0, and report what comes of it.

    Args:
        built: What both of them train.
        trial: The trial in which this rank has trained alone.
        pair: The two ranks, of which this is rank 0.
    """
    pair.watch()
    if not pair.order({"samples": trial.loaders.samples}):
        # A script that ends before its fit is a doubt there; here, the other rank would wait.
        ends = (each for each in pair.found if each.is_refusal or each.check == "training")
        if found := next(ends, None):
            built.send(replace(found, verdict="refused", evidence=f"on rank 1: {found.evidence}"))
        return
    trial.forget()
    try:
        mine = _train(built, trial, pair)
    except Exception as error:  # noqa: BLE001 - whatever the user's classes raise
        found = _judged(built, error)
        built.send(replace(found, evidence=f"in a trial of two ranks: {found.evidence}"))
        return
    theirs = pair.await_end()
    if fault := pair.fault():
        built.send(fault)
    elif theirs.get("is_whole"):
        built.send(_compared(built, mine, theirs))


def follow(built: Built, trial: Trial, pair: Pair, *, is_tried: bool) -> NoReturn:
    """Train as rank 1, and end this process.

    Args:
        built: What both of them train.
        trial: The trial in which this rank trains alone first, as rank 0 does.
        pair: The two ranks, of which this is rank 1.
        is_tried: Whether two ranks can train it; this one has nothing to do otherwise.
    """
    if not is_tried:
        pair.finish({})
    end: dict[str, Any] = {}
    is_ready = trial.run()
    trial.loaders.samples = pair.await_order()["samples"]
    trial.forget()
    pair.watch()
    if is_ready:
        try:
            end = {**_train(built, trial, pair), "is_whole": True}
        except Exception as error:  # noqa: BLE001 - as above
            built.send(_judged(built, error))
    pair.finish(end)


def _train(built: Built, trial: Trial, pair: Pair) -> dict[str, Any]:
    """Train an epoch of two batches, and return what the ranks are compared by."""
    from lightning.pytorch import Callback
    from torch.utils.data import IterableDataset

    seen: list[str | None] = []

    class Seeing(Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:  # noqa: ANN401 - as Lightning has it
            seen.append(hash_of(arguments[2]))

        def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: ANN401 - as above
            # Its limit of epochs is that of the run, as schedules ask for it.
            arguments[0].should_stop = arguments[0].should_stop or len(seen) >= TRIAL_BATCHES

    pair.become(TWO)
    trial.fit(trial_trainer(built, trial.loaders.count_steps, Seeing(), is_one_of_two=True))
    loaders = trial.loaders
    is_stream = isinstance(getattr(loaders.training, "dataset", None), IterableDataset)
    return {"batches": loaders.batches, "seen": seen, "is_stream": is_stream}


def _judged(built: Built, error: Exception) -> Finding:
    """Return what an error of two ranks stands for, which one alone has not had."""
    found = replace(blame(error, "step", built.spec, "model", built.place), check="ranks")
    said = f"{type(error).__name__}: {error}"
    if any(word in said.lower() for word in _OF_GLOO):
        return unknown("ranks", f"this machine does not have what it needs: {said}"[:_LONGEST])
    return found


def _compared(built: Built, mine: dict[str, Any], theirs: dict[str, Any]) -> Finding:
    """Return what two ranks that have come to the end have done otherwise, or alike."""
    owner = built.data if built.data is not None and not built.has_loaders else built.model
    key = built.key_of(type(owner).__name__, "data") if not built.has_loaders else built.script
    counts = mine["batches"], theirs["batches"]
    is_read = None not in counts and not 0 < _last_batch(built) <= min(counts)
    if is_read and counts[0] != counts[1]:
        return refusal(
            "ranks",
            key,
            f"{key}: rank 0 has {counts[0]} training batches per epoch and rank 1 has {counts[1]}, "
            "so one of them waits at the end of the epoch for gradients that never come.",
            "Give each rank as many samples as the others, as DistributedSampler does; what is "
            f"drawn at random needs a seed: seed_everything(0). Or --trainer.limit_train_batches="
            f"{min(counts)}",
        )
    is_alike = mine["seen"] == theirs["seen"] and len({*mine["seen"]} - {None}) > 1
    if mine["is_stream"] and is_alike:
        return doubt(
            "ranks",
            key,
            f"{key}: two ranks that were tried have read the same batches, as nothing divides what "
            "an IterableDataset yields.",
            "In its __iter__: itertools.islice(samples, rank, None, world_size), with the rank and "
            "the world size of torch.distributed",
        )
    number = len(mine["seen"])
    batches = "1 batch" if number == 1 else f"{number} batches"
    return ok("ranks", f"two ranks have trained {batches} together")


def _last_batch(built: Built) -> int:
    """Return the batch with which training ends, as a number of them; -1 if epochs decide."""
    steps = int(built.arguments.get("max_steps") or -1)
    return steps * int(built.arguments.get("accumulate_grad_batches") or 1)
