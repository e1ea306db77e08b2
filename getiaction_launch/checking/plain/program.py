"""A program without Lightning is run in a process apart, until an optimizer has made two steps.

A run of several ranks is tried by two, on the CPU, which continue through some epochs. What could
come of that, and not of the program, refuses nothing: a program may ask for a GPU or for more
ranks, and may need a file that a check does not write.
"""

import contextlib
import os
import pickle
import re
import sys
import traceback
from dataclasses import replace
from typing import Any, NoReturn

from getiaction_launch.checking.apart.abort import LOST_PEER, keep_error, mismatch_of
from getiaction_launch.checking.apart.pair import TWO, Pair
from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.apart.rank import become_rank_0, free_head
from getiaction_launch.checking.apart.sandbox import forbid_programs, wishes
from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal, unknown
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.lightning_seams import fabric_on_cpu
from getiaction_launch.checking.plain.again import RESTART, Again, can_resume, of_restart
from getiaction_launch.checking.plain.behind import Behind
from getiaction_launch.checking.plain.devices import of_device
from getiaction_launch.checking.plain.drift import Drift
from getiaction_launch.checking.plain.folders import Folders
from getiaction_launch.checking.plain.inputs import Inputs
from getiaction_launch.checking.plain.joining import Joining
from getiaction_launch.checking.plain.loop import STEPS, Loop
from getiaction_launch.checking.plain.race import WAIT, is_seen
from getiaction_launch.checking.plain.states import compare, state_of
from getiaction_launch.checking.plain.steps import Steps
from getiaction_launch.checking.ranks.variables import changed_variables, ranks_of_environment
from getiaction_launch.checking.source.source import Source, uses_fabric
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.worker.program import run_as_main

LIMIT_SECONDS = 20
"""How long a program may take to its second step without being asked for."""
OTHER_SECONDS = 5
"""How much later than rank 0 rank 1 may come to its second step."""
_CERTAIN = (
    *(ImportError, SyntaxError, NameError, EOFError, pickle.PickleError),
    *(FileNotFoundError, FileExistsError),
)
"""What does not depend on how many ranks there are, nor on a GPU."""
_READS = re.compile(r"\b(load\w*|open|read\w*)\(")
"""How a line reads a file."""
_PICKLE = re.compile(r"can't pickle|cannot pickle", re.IGNORECASE)
_OF_THE_LAUNCH = re.compile(
    r"world|rank|distributed|torchrun|nproc|cuda|gpu|nccl|device|slurm|process group", re.IGNORECASE
)
"""Words by which a program asks how it was launched."""
_OF_WRAPPER = re.compile(r"'DistributedDataParallel' object has no attribute '(\w+)'")
_NO_GROUP = "process group has not been initialized"
_COLLECTIVES = "/torch/distributed/"
_LACKING = re.compile(r"support|implement|no backend|not built|not compiled", re.IGNORECASE)
"""Words of a collective that NCCL has, and Gloo lacks."""
_UNTRAINED = "the program ends without an optimizer step"


class PlainProgram:
    """The program, in the process apart.

    Args:
        plan: The plan of the run, with a script or a module.
        source: This script or module, as it was read.
        place: Where the run would be started.
        apart: The process apart, which this one is.
    """

    def __init__(self, plan: Plan, source: Source, place: Place, apart: Apart) -> None:
        whole = plan.topology
        two = TWO if whole.workers_per_node == 1 else Topology(1, 2, 0)
        topology = two if whole.world_size > 1 else Topology(1, 1, 0)
        # The trial is as the run if that has no more ranks and no GPU, too.
        self._is_alike = whole.gpus_per_node == 0 and whole.world_size == topology.world_size
        self._whole, self._is_fabric = whole, uses_fabric(source)
        self._plan = replace(plan, topology=topology)
        self._source, self._place, self._apart = source, place, apart
        self._pair: Pair | None = None
        self._loop = Loop(self._begin, self._come, self._leave_later)
        self._loop.empty.is_sure = whole.world_size == topology.world_size
        self._drift, self._inputs, self._steps = Drift(source), Inputs(), Steps(source)
        self._folders, self._behind = Folders(source), Behind(source)
        self._again = Again(apart)
        self._own: dict[str, str | None] = {}
        self._is_doubted = False

    def run(self) -> None:
        """Run the program, and report how it ends if it ends before its second step."""
        import torch  # before this process is closed off

        if self._is_fabric:
            import lightning.fabric  # noqa: F401 - as above
        from getiaction_launch.checking.devices import standing_in

        said = self._apart.hear()
        (self._apart.scratch / "run").mkdir()
        if not become_rank_0(self._plan, self._apart.scratch):
            why = "Linux has no Landlock here, by which what a program writes is refused"
            self._apart.send(unknown("training", why))
            return
        forbid_programs()
        words = [*self._plan.script]
        if can_resume(self._plan, self._source):
            self._again.fork()
            words += self._plan.resume_args if self._again.is_second else []
        # Not that of a first attempt, whose processes are still there.
        os.environ["MASTER_PORT"] = free_head().rpartition(":")[2]
        self._pair = Pair.of(self._apart, self._plan.topology)
        if self._pair is not None:
            self._pair.count_cuts = lambda: self._loop.cuts
            self._pair.watch()
        self._own, topology = ranks_of_environment(), self._plan.topology
        sys.argv, sys.path[0] = words, self._plan.working_directory
        distributed = torch.distributed
        joining = Joining(self._source, self._whole, topology.world_size, self._report)
        joining.is_on_cpu = self._place.lacks_gpus
        distributed.init_process_group = joining.wrapped(distributed.init_process_group)
        with contextlib.ExitStack() as stack:
            if self._is_fabric:
                stack.enter_context(fabric_on_cpu(self._whole, topology, self._refrain))
            stack.enter_context(standing_in(0))
            if self._pair is not None:
                stack.enter_context(self._drift.watched())
                stack.enter_context(self._inputs.watched())
                stack.enter_context(self._folders.watched())
            stack.enter_context(self._behind.watched())
            stack.enter_context(self._loop.watched())
            try:
                run_as_main(self._plan)
            except BaseException as error:  # noqa: BLE001 - whatever the program raises
                self._end(error, said())
            else:
                self._end(SystemExit(0), "")

    def _begin(self, optimizer: Any) -> None:  # noqa: ANN401 - an optimizer of torch
        """Say what is wrong with the first step of an optimizer."""
        found = self._steps.begin(optimizer)
        if found and not wishes:
            self._report(found)

    def _report(self, finding: Finding) -> None:
        """Report what both ranks have come to; a refusal ends the trial."""
        if finding.is_refusal:
            self._end_with(finding)
        self._send(finding)

    def _come(self, optimizer: Any) -> None:  # noqa: ANN401 - an optimizer of torch
        """Say what the second step shows, which the program has just made."""
        changed = next(changed_variables(self._own, self._whole.world_size), None)
        if changed:
            self._send(changed)
            self._leave()
        hidden = [] if wishes else self._steps.hidden()
        for each in hidden if self._pair is None or not self._pair.rank else ():
            self._report(each)
        if self._pair is None:
            self._say_trained("as one rank")
        else:
            self._meet(self._pair, optimizer)
        if self._again.is_second or (self._pair is None and not self._again.is_ready):
            self._leave_later()

    def _meet(self, pair: Pair, optimizer: Any) -> None:  # noqa: ANN401 - as above
        """Compare the two ranks, once both have made the second step."""
        mine = state_of(optimizer, self._loop)
        if pair.rank:
            seen = {"wrapped": self._drift.state(), "trained": self._inputs.state()}
            pair.note({**mine, **seen, "folders": self._folders.state()})
            return
        theirs = pair.await_note(OTHER_SECONDS)
        found = None
        if theirs and not self._again.is_second:
            found = self._drift.compare(theirs["wrapped"], is_over=False)
            found = found or compare(mine, theirs, self._source)
            found = found or self._inputs.compare(theirs["trained"], self._source)
            found = found or self._folders.compare(theirs["folders"])
        if found:
            self._send(found)
            self._is_doubted = True
        if found and found.is_refusal:
            self._leave()
        self._say_trained("by two ranks" if theirs else "by rank 0 of two")

    def _send(self, finding: Finding) -> None:
        """Send a finding; of a second attempt only what a restart has to say."""
        if not self._again.is_second or finding.check == RESTART:
            self._apart.send(finding)

    def _refrain(self, why: str) -> NoReturn:
        """Leave without having tried it."""
        self._end_with(unknown("training", why))

    def _end_with(self, finding: Finding) -> NoReturn:
        """Send what ends the trial, and do not return."""
        self._send(finding)
        if self._pair is not None and self._pair.rank:
            self._pair.finish({})
        self._leave()

    def _say_trained(self, how: str) -> None:
        self._send(ok("training", f"{STEPS} optimizer steps on the CPU, {how}"))

    def _leave(self) -> NoReturn:
        self._apart.leave()  # not by an exception, which the program could catch
        raise SystemExit  # the process has left

    def _leave_later(self) -> None:
        """Leave on rank 0, with which rank 1 ends."""
        if self._pair is None or not self._pair.rank:
            self._report_fault()
            self._report_lost()
            self._leave()

    def _report_fault(self) -> None:
        if self._pair is not None and (fault := self._pair.fault()):
            self._apart.send(fault)

    def _report_lost(self) -> None:
        """Report what no other attempt will find, before one is tried."""
        for lost in self._folders.named_by_time() if self._again.is_ready else ():
            self._send(lost)

    def _end(self, error: BaseException, said: str) -> None:
        """Report how the program has ended."""
        keep_error(error)
        found = self._ending(error, said)
        is_whole = isinstance(error, SystemExit) and error.code in (None, 0) and not wishes
        if self._pair is not None and self._pair.rank:
            if found:
                self._send(found)
            self._pair.finish({"is_whole": is_whole, "wrapped": self._drift.state()})
        if self._pair is not None and is_whole:
            end = self._pair.await_end()
            self._report_fault()
            is_whole = bool(end.get("is_whole")) and not self._pair.fault()
            drifted = self._drift.compare(end["wrapped"], is_over=True) if is_whole else None
            if drifted and (drifted.is_refusal or not self._is_doubted):
                self._send(drifted)
                is_whole = not drifted.is_refusal
        if found:
            self._send(found)
        elif is_whole:
            self._report_lost()
            self._again.begin(self._plan)

    def _ending(self, error: BaseException, said: str) -> Finding | None:
        from getiaction_launch.checking.trial.endings import ending_of

        changed = next(changed_variables(self._own, self._whole.world_size), None)
        is_end = isinstance(error, SystemExit) and error.code in (None, 0)
        is_other = self._again.is_second or (self._pair is not None and self._pair.rank)
        if not (wishes or changed or is_other) and (found := self._loop.empty.finding(error)):
            return found
        if changed or is_end:
            return None if self._loop.is_enough else changed or unknown("training", _UNTRAINED)
        if self._loop.is_enough and self._again.is_second:
            return None
        found = ending_of(error, str(self._source.path), said, self._place)
        if self._again.is_second:
            return None if wishes else of_restart(error, found, self._again)
        lacking = of_device(error) if self._place.lacks_gpus and not wishes else None
        is_first = self._pair is not None and not self._pair.rank
        mismatch = mismatch_of(self._apart.scratch) if is_first else None
        if told := lacking or mismatch or _of_wrapper(error):
            return told
        judge = self._judged_later if self._loop.is_enough else self._judged
        return judge(error, found)

    def _judged(self, error: BaseException, found: Finding) -> Finding:
        """Return what an error stands for that comes before the second step."""
        from getiaction_launch.checking.trial.endings import is_of_parser

        if not found.is_refusal or is_of_parser(error):
            return found
        if LOST_PEER.search(str(error)):
            return unknown("training", f"two ranks that were tried lost each other: {error}")
        fix = found.fix
        if _NO_GROUP in str(error):
            fix = "Call torch.distributed.init_process_group() before this line"
        if wishes:
            why = f"a check does not {wishes[0]}; the program then failed: {found.evidence}"
            return unknown("training", why)
        line = "".join(frame.line or "" for frame in own_frames(error)[-1:])
        is_certain = isinstance(error, _CERTAIN) or bool(_PICKLE.search(str(error)))
        is_of_launch = bool(_OF_THE_LAUNCH.search(f"{error} {line}"))
        # Rank 0 may write what rank 1 has not found or not whole, and be the first one in the run.
        is_of_file = isinstance(error, FileNotFoundError) or bool(_READS.search(line))
        is_race = is_of_file and bool(self._pair and self._pair.rank)
        if is_race and is_seen(error, self._source):
            what = f"{found.evidence}: rank 0 has written it a moment later."
            return replace(found, check="ranks", evidence=what, fix=WAIT)
        if (self._is_alike and not is_race) or (
            is_certain
            and not is_race
            and not is_of_launch
            and not isinstance(error, UnboundLocalError)
        ):
            return replace(found, fix=fix)
        ranks = "as one rank" if self._pair is None else "by two ranks"
        what = f"{ranks} on the CPU, it fails: {found.evidence}"
        is_told = _NO_GROUP in str(error) or not is_of_launch
        return doubt("training", found.key, what, fix) if is_told else unknown("training", what)

    def _judged_later(self, error: BaseException, found: Finding) -> Finding | None:
        """Return what an error stands for that comes after two steps, in an epoch cut short."""
        is_of_cut = isinstance(error, StopIteration) or "StopIteration" in str(error)
        if wishes or is_of_cut or not found.is_refusal or LOST_PEER.search(str(error)):
            return None
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if _NO_GROUP in str(error):
            fix = "Move it before torch.distributed.destroy_process_group()"
            return replace(found, check="ranks", fix=fix)
        if sure := self._behind.refusal_of(error, found):
            return sure
        if self._pair is None:
            return None
        if files and _COLLECTIVES in files[-1] and _LACKING.search(str(error)):
            return None
        what = f"after {STEPS} steps, in an epoch that is cut short, it fails: {found.evidence}"
        return doubt("ranks", found.key, what, found.fix)


def _of_wrapper(error: BaseException) -> Finding | None:
    """Return the refusal of what a wrapper was asked for, and only the model inside has."""
    named = _OF_WRAPPER.search(str(error)) if isinstance(error, AttributeError) else None
    own = own_frames(error)
    if named is None or not own:
        return None
    place = shown((own[-1].filename, own[-1].lineno or 0))
    what = f"{place}: {error}: only the model inside may have it."
    fix = f"Ask the model inside: model.module.{named[1]}"
    return refusal("model", place.partition(" ")[0], what, fix)
