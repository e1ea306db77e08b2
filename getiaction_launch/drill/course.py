"""The course of a drill: one undisturbed run, then one run for each fault."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from getiaction_launch.backends.local import LocalBackend
from getiaction_launch.drill.baseline import Baseline, BaselineResult
from getiaction_launch.drill.blame import Difference, Rows, find_first
from getiaction_launch.drill.certificate import Certificate, FaultResult, versions
from getiaction_launch.drill.faults import FEWEST_STEPS, TITLES, orders_for
from getiaction_launch.drill.job import start
from getiaction_launch.drill.judgement import (
    Trained,
    Volatile,
    judge_program,
    judge_resume,
    means_of,
    notes_of,
    problems_of,
    repeated_steps,
)
from getiaction_launch.drill.rows import compare_loggers, differing_names
from getiaction_launch.errors import CheckError, SpecError, disk_errors
from getiaction_launch.launch import submit
from getiaction_launch.launch.check import check_place
from getiaction_launch.launch.freezing.freeze import freeze
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.code import MOST_MB
from getiaction_launch.plan.plan import Plan, Restarts
from getiaction_launch.run.records import read_attempts
from getiaction_launch.run.rehearsal.orders import Fault, Orders
from getiaction_launch.run.rehearsal.trajectory import FaultNote, read_attempts_of
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.system.orphans import processes_of

_RESTARTS = Restarts(crashes=3, node_failures=3, interruptions=None)
_NO_RESTARTS = Restarts(crashes=0, node_failures=0, interruptions=0)
ORPHAN_SECONDS = 5.0
"""How long processes of a run that has ended may take to disappear."""


@dataclass(frozen=True)
class Ended:
    """A run of the drill that has ended.

    Attributes:
        run: The run, whose directory has its records.
        status: How the run has ended.
        trained: What its workers have recorded.
        orphans: Which of its processes have outlived it, in sentences.
    """

    run: Run
    status: RunStatus
    trained: Trained
    orphans: list[str]


class Drill:
    """Rehearses faults with one program.

    Args:
        plan: The plan of the program's run on CPUs of this machine.
        program: The program as it was typed.
        root: Directory for the runs of the drill.
        orders: What holds for all its runs: their length, and a seed.
        say: Prints progress for people.
    """

    def __init__(
        self, plan: Plan, program: str, root: Path, orders: Orders, say: Callable[[str], None]
    ) -> None:
        self._plan, self._program, self._root = plan, program, root
        self._orders, self._say = orders, say
        self._volatile = Volatile()

    @disk_errors()
    def rehearse(self, faults: Sequence[Fault], *, with_baseline: bool = False) -> Certificate:
        """Have each fault come to a run of its own, and compare it with an undisturbed one.

        Args:
            faults: The faults, in the order in which they are rehearsed; each one only once.
            with_baseline: Whether to have them come to the program under Lightning alone, too.

        Raises:
            CheckError: If the program cannot be drilled: it fails without a fault, it does not call
                ``Trainer.fit``, or it is too short.
        """
        # No limit of size: there is no --no-snapshot here, and files of data are links in any case.
        snapshot = replace(self._plan.snapshot, limit_mb=MOST_MB)
        plan = replace(self._plan, root=str(self._root), snapshot=snapshot)
        check_place(plan, LocalBackend())
        # Once for all runs: otherwise an edit during the drill would be blamed on a loader.
        (self._plan,) = freeze([plan])
        faults = list(dict.fromkeys(faults))  # each has its own directory, by its name
        whole = replace(self._orders, is_detailed=True)
        reference = self._undisturbed("undisturbed", whole)
        steps, epoch_steps, epochs = self._length(reference)
        ordered = [orders_for(fault, steps, epoch_steps, self._orders) for fault in faults]
        difference: Difference | None = None
        rehearsed: list[tuple[Ended, Orders]] = []
        for orders in ordered:
            fault = orders.fault
            where = " and ".join(map(str, orders.steps))
            self._say(f"{TITLES[fault]}: in step {where} of {steps} ...")
            ended = self._train(fault, orders)
            difference = judge_program(
                reference.trained.ranks, ended.trained.undisturbed, self._volatile
            )
            if difference:
                break  # what comes after the fault cannot be compared
            rehearsed.append((ended, orders))
        results = [self._judge(reference, *each) for each in rehearsed]
        found = [each for result in results for each in result.differences]
        if difference is None and not all(each.parts for each in found):
            # Nothing was seen that was not restored: perhaps the program differs from itself.
            again = self._undisturbed("again", self._orders)
            ranks = reference.trained.ranks
            difference = judge_program(ranks, again.trained.ranks, self._volatile)
            if difference is None:
                self._volatile.logged |= differing_names(reference.run, again.run)
                results = [self._judge(reference, *each) for each in rehearsed]
        baseline = []
        if with_baseline and difference is None:
            baseline = [self._rehearse_alone(reference, each, epoch_steps) for each in ordered]
        return Certificate(
            self._program,
            versions(),
            self._plan.topology,
            steps,
            epoch_steps,
            epochs,
            difference,
            results,
            sorted(self._volatile.logged),
            baseline,
            self._orders.seed,
        )

    def _undisturbed(self, name: str, orders: Orders) -> Ended:
        self._say("undisturbed run ..." if name == "undisturbed" else "undisturbed run again ...")
        ended = self._train(name, orders, _NO_RESTARTS)
        if ended.status.state is not JobState.SUCCEEDED:
            error = ended.run.first_error(0)
            if error and error.type == SpecError.__name__:
                raise SpecError(*error.message.split("\n", 1))
            raise CheckError(
                f"the program fails without any fault: {ended.status.reason}",
                f"See why: getiaction-launch why {shlex.quote(str(ended.run.directory))}",
            )
        if (starts := len(ended.trained.records)) != 1:
            raise CheckError(
                f"the undisturbed run was started {starts} times, and not only once.",
                f"See why: getiaction-launch why {shlex.quote(str(ended.run.directory))}",
            )
        return ended

    def _rehearse_alone(self, reference: Ended, orders: Orders, epoch_steps: int) -> BaselineResult:
        fault = orders.fault
        if fault == "kill-in-save":  # Lightning saves where an epoch ends
            orders = replace(orders, steps=[min(epoch_steps, *orders.steps)])
        self._say(f"{TITLES[fault]}, under Lightning alone ...")
        trained, result = Baseline(self._plan, self._root).train(fault, orders)
        expected, found = reference.trained.ranks, trained.ranks
        if len(found) != len(expected):
            return replace(result, difference="not every rank has trained")
        place = find_first(expected, found, self._left_out(expected))
        if place is None or place.kind == "checkpoint":  # it is another one's, elsewhere
            return result
        return replace(result, differs_at=place.key[1], difference=place.kind)

    def _left_out(self, ranks: Sequence[Rows]) -> set[str]:
        """Return the names of logged values that are not compared."""
        return self._volatile.logged | means_of(ranks)

    def _length(self, reference: Ended) -> tuple[int, int, int]:
        """Return steps, steps of the first epoch, and epochs of the first fit."""
        rows = [row for row in reference.trained.ranks[0].values() if row.fit == 0]
        steps = [row for row in rows if row.kind == "step"]
        if not steps:
            raise CheckError(
                "the program has not called Trainer.fit, so there are no steps to compare.",
                "A drill needs a program that trains with Lightning's Trainer.",
            )
        if len(steps) < FEWEST_STEPS:
            raise CheckError(
                f"the program trains for {len(steps)} steps, and a drill needs {FEWEST_STEPS}.",
                "Let it train for longer: more epochs, more data or a smaller batch.",
            )
        epoch_steps = sum(row.epoch == steps[0].epoch for row in steps)
        return len(steps), epoch_steps, len({row.epoch for row in steps})

    def _train(self, name: str, orders: Orders, restarts: Restarts = _RESTARTS) -> Ended:
        plan = replace(
            self._plan,
            name=name,
            saving=replace(self._plan.saving, when_busy="wait"),
            restarts=restarts,
            env_vars={**self._plan.env_vars, **orders.to_env()},
        )
        run = Run.claim(plan.root, plan.name)
        run.write("plan", plan.to_json())
        try:
            start(run)
            status = submit.wait(run, lambda _: None)
        except KeyboardInterrupt:
            submit.cancel(run)
            raise
        attempts = read_attempts_of(run)
        notes = [FaultNote.read(run, number) for number in range(len(attempts))]
        trained = Trained(attempts, read_attempts(run), notes)
        return Ended(run, status, trained, [*_orphans(run)])

    def _judge(self, reference: Ended, ended: Ended, orders: Orders) -> FaultResult:
        expected, trained = reference.trained.ranks, ended.trained
        problems = problems_of(trained, len(expected), len(orders.steps))
        if ended.status.state is not JobState.SUCCEEDED:
            problems.append(f"The run ended as {ended.status.state.value}: {ended.status.reason}.")
        problems += ended.orphans
        notes = notes_of(expected, trained.ranks)
        differences = []
        if found := judge_resume(expected, trained, self._volatile):
            differences.append(found)
        elif not problems:
            left_out = self._left_out(expected)
            differences += compare_loggers(reference.run, ended.run, left_out)
        kept = [note for note in trained.notes if note]
        return FaultResult(
            orders.fault,
            TITLES[orders.fault],
            orders.steps,
            [note.what for note in kept],
            [f"{record.state.value}: {record.reason}" for record in trained.records[: len(kept)]],
            [record.first_step for record in trained.records[1:]],
            repeated_steps(trained),
            ended.status.state.value,
            differences,
            problems,
            notes,
            str(ended.run.directory),
        )


def _orphans(run: Run) -> Iterator[str]:
    """Say which processes have outlived a run."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (left := processes_of(str(run.directory))) and time.monotonic() < deadline:
        time.sleep(run.poll_seconds)
    for process in left:
        with contextlib.suppress(Exception):
            yield f"Process {process.pid} ({' '.join(process.cmdline())[:80]}) outlived the run."


def as_json(certificate: Certificate) -> dict[str, object]:
    """Return a certificate as plain data."""
    results = [asdict(each) | {"passed": each.is_passed} for each in certificate.results]
    return {**asdict(certificate), "results": results, "passed": certificate.is_passed}
