"""Two ranks train what one has trained alone without a fault, or what one alone cannot train.

What a run of several ranks needs shows only here: as many batches on each, the same collectives,
gradients that are averaged. Where steps are fast, they train whole epochs.
"""

import time
from dataclasses import replace
from typing import Any, NoReturn

from getiaction_launch.checking.apart.pair import TWO, Pair
from getiaction_launch.checking.blame import blame
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, ok, refusal, unknown
from getiaction_launch.checking.loading.batches import epochs_begun, hash_of
from getiaction_launch.checking.trial.alike import compared, of_counts, seen_by
from getiaction_launch.checking.trial.kept import MOST_BYTES, bytes_of
from getiaction_launch.checking.trial.step import Trial
from getiaction_launch.checking.trial.trainer import TRIAL_BATCHES, TRIAL_EPOCHS, trial_trainer

MOST_BATCHES = 32
"""Most batches of an epoch, where steps are fast."""
_FAST_SECONDS = 0.25
"""How long a step may take for whole epochs to be tried."""
_MORE_SECONDS = 0.5
"""CPU time that whole epochs may take, after as many batches as are tried in any case."""
_MOST_SECONDS = 5
"""How long they may take in all."""
_NOTE_SECONDS = 1
"""How long to wait for what rank 1 says of its decision to stop."""
_LONGEST = 300
_OF_GLOO = ("gloo", "nccl", "backend", "timed out")


def can_train_together(built: Built, *, is_deep: bool) -> bool:
    """Return whether two ranks on CPUs train as those of the run would.

    Args:
        built: What a spec names, or what a script has given to ``Trainer.fit``.
        is_deep: Whether to try a model of any size.
    """
    from lightning.pytorch.strategies import DDPStrategy

    is_small = is_deep or bytes_of(built.model.parameters()) <= MOST_BYTES
    return type(built.trainer.strategy) is DDPStrategy and is_small


def lead(built: Built, trial: Trial, pair: Pair) -> None:
    """Train as rank 0, and report what comes of it.

    Args:
        built: What both of them train.
        trial: The trial in which this rank has trained alone, perhaps with an error.
        pair: The two ranks, of which this is rank 0.
    """
    pair.watch()
    are_whole = trial.batch_seconds <= _FAST_SECONDS
    if not pair.order({"samples": trial.loaders.samples, "are_whole": are_whole}):
        # A script that ends before its fit is a doubt there; here, the other rank would wait.
        ends = (each for each in pair.found if each.is_refusal or each.check == "training")
        if found := next(ends, None):
            built.send(replace(found, verdict="refused", evidence=f"on rank 1: {found.evidence}"))
        elif trial.postponed:
            built.send(trial.postponed)
        return
    trial.forget()
    trial.loaders.are_whole = are_whole
    together = _Together(built, trial, pair)
    try:
        mine = together.train()
    except Exception as error:  # noqa: BLE001 - whatever the user's classes raise
        found = _judged(built, error)
        if trial.postponed and (not found.is_refusal or trial.postponed.evidence == found.evidence):
            built.send(trial.postponed)
        else:
            built.send(replace(found, evidence=f"in a trial of two ranks: {found.evidence}"))
        return
    theirs = pair.await_end()
    if fault := pair.fault():
        built.send(fault)
    elif theirs.get("is_whole"):
        if trial.postponed:
            built.send(ok("step", "trained by two ranks, as one alone cannot"))
        built.send(compared(built, mine, theirs))
    else:
        built.send(trial.postponed or _of_rank_1(pair))


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
    is_ready = trial.run() or trial.postponed is not None
    order = pair.await_order()
    trial.loaders.samples, trial.loaders.are_whole = order["samples"], order["are_whole"]
    trial.forget()
    pair.watch()
    if is_ready:
        try:
            end = {**_Together(built, trial, pair).train(), "is_whole": True}
        except Exception as error:  # noqa: BLE001 - as above
            built.send(_judged(built, error))
    pair.finish(end)


class _Together:
    """The training of one of the two ranks."""

    def __init__(self, built: Built, trial: Trial, pair: Pair) -> None:
        self._built, self._trial, self._pair = built, trial, pair
        self._count = self._epochs = self._ended_at = 0
        self._is_in_first_epoch = trial.loaders.are_whole
        self._seen: list[str | None] = []
        self._losses: list[float | None] = []
        self._begun = 0.0, 0.0
        self._stop: dict[str, Any] = {}
        pair.explain = lambda: trial.postponed or self._uneven() or self._stopped()
        pair.count_cuts = self._count_cuts

    def train(self) -> dict[str, Any]:
        """Train, and return what the ranks are compared by."""
        trial, loaders = self._trial, self._trial.loaders
        most = MOST_BATCHES if loaders.are_whole else TRIAL_BATCHES
        limits = [most, loaders.batches] if loaders.batches else [most]
        self._pair.become(TWO)
        self._pair.lockstep.note_length(loaders.batches or 0)
        trial.fit(
            trial_trainer(
                self._built,
                loaders.count_steps,
                self._counting(),
                is_one_of_two=True,
                note_stop=self._note_stop,
                most_batches=min(limits),
            )
        )
        return {
            "batches": loaders.batches,
            "seen": self._seen,
            "losses": self._losses,
            "count": self._count,
            "is_whole_epoch": loaders.are_whole,
            **seen_by(self._built, loaders),
        }

    def _counting(self) -> Any:  # noqa: ANN401 - Lightning's Callback
        from lightning.pytorch import Callback

        together = self

        class Counting(Callback):
            def on_train_batch_start(self, *arguments: Any) -> None:  # noqa: ANN401 - as Lightning has it
                together.begin(arguments[2])

            def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: ANN401 - as above
                trainer = arguments[0]
                together.note_loss(arguments[2])
                # Its limit of epochs is that of the run, as schedules ask for it.
                is_over = together.end(is_last_of_epoch=trainer.is_last_batch)
                trainer.should_stop = trainer.should_stop or is_over

            def on_train_epoch_end(self, *_: object) -> None:
                together.end_epoch()  # of a stream, whose end nobody has known before

        return Counting()

    def begin(self, batch: object) -> None:
        """Take note of a batch that is trained next."""
        self._count += 1
        if len(self._seen) < TRIAL_BATCHES:
            self._seen.append(hash_of(batch))
        if self._is_in_first_epoch:
            self._pair.lockstep.begin_batch(self._count)
            self._refuse_uneven()

    def note_loss(self, outputs: object) -> None:
        """Take note of what a step has returned."""
        if len(self._losses) < TRIAL_BATCHES:
            loss: Any = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self._losses.append(float(loss) if getattr(loss, "numel", int)() == 1 else None)

    def end(self, *, is_last_of_epoch: bool) -> bool:
        """Return whether the batch that was just trained is the last one of the trial.

        Args:
            is_last_of_epoch: Whether it is known to be the last one of its epoch.
        """
        if not self._trial.loaders.are_whole:
            return self._count >= TRIAL_BATCHES
        lockstep = self._pair.lockstep
        if self._count == TRIAL_BATCHES:
            self._begun = time.process_time(), time.monotonic()
        if self._count >= TRIAL_BATCHES and self._pair.rank == 0:
            spent, passed = time.process_time() - self._begun[0], time.monotonic() - self._begun[1]
            if spent > _MORE_SECONDS or passed > _MOST_SECONDS:
                lockstep.choose_last(self._count)
        if self._is_in_first_epoch and not lockstep.is_last(self._count):
            lockstep.end_batch(self._count, is_last=is_last_of_epoch)
            self._refuse_uneven()
        if is_last_of_epoch:
            self.end_epoch()
        epochs = epochs_begun(self._built, self._trial.loaders.batches)
        return lockstep.is_last(self._count) or self._epochs >= (epochs or TRIAL_EPOCHS)

    def end_epoch(self) -> None:
        """Take note of the end of an epoch, once for each."""
        if self._ended_at == self._count:
            return
        self._epochs, self._ended_at = self._epochs + 1, self._count
        lockstep = self._pair.lockstep
        if self._is_in_first_epoch and not lockstep.is_last(self._count):
            lockstep.end_epoch(self._count)
            self._refuse_uneven()
        self._is_in_first_epoch = False

    def _refuse_uneven(self) -> None:
        """Refuse ranks of which one has come to the end of its epoch alone."""
        if found := self._uneven(is_still=all(self._pair.lockstep.lengths)):
            if self._pair.rank:
                self._pair.finish({})
            self._pair.end_with(found)

    def _uneven(self, *, is_still: bool = True) -> Finding | None:
        lengths, counts = self._pair.lockstep.lengths, self._pair.lockstep.uneven(is_still=is_still)
        if counts is None:
            return None
        if not self._pair.rank and (stopped := self._stopped()):
            return stopped
        is_known = all(lengths)
        return of_counts(self._built, *(lengths if is_known else counts), is_open=not is_known)

    def _note_stop(self, place: str) -> None:
        if not self._stop:
            self._stop = {"batch": self._count, "place": place}
            if self._pair.rank:
                self._pair.note(self._stop)

    def _stopped(self) -> Finding | None:
        """Return the refusal of a rank that has left its epoch by a decision of its own."""
        stops = [self._stop, self._pair.await_note(_NOTE_SECONDS) or {}]
        batches = [stop.get("batch", float("inf")) for stop in stops]
        if batches[0] == batches[1]:
            return None
        first = batches.index(min(batches))
        place = stops[first]["place"]
        return refusal(
            "ranks",
            "should_stop",
            f"{place}: rank {first} has set should_stop after {batches[first]} batches and the "
            "other one has not, which waits for its gradients forever.",
            "Decide on all ranks alike, in on_train_batch_end or at the end of an epoch: "
            "self.trainer.should_stop = "
            "self.trainer.strategy.reduce_boolean_decision(is_done, all=False)",
        )

    def _count_cuts(self) -> int:
        is_cut = self._trial.loaders.are_whole and self._pair.lockstep.is_last(self._count)
        return self._count if is_cut else 0


def _of_rank_1(pair: Pair) -> Finding:
    """Return why rank 1 has not come to the end, where that refuses nothing."""
    found = pair.found[-1:] or [unknown("ranks", "the trial could not be finished")]
    return replace(found[0], check="ranks", evidence=f"on rank 1: {found[0].evidence}")


def _judged(built: Built, error: Exception) -> Finding:
    """Return what an error of two ranks stands for, which one alone has not had."""
    found = replace(blame(error, "step", built.spec, "model", built.place), check="ranks")
    said = f"{type(error).__name__}: {error}"
    if any(word in said.lower() for word in _OF_GLOO):
        return unknown("ranks", f"this machine does not have what it needs: {said}"[:_LONGEST])
    return found
