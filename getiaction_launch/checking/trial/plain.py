"""A program without Lightning is run in a process apart, until an optimizer has made two steps.

It is the only rank there, on the CPU. What could come of that, and not of the program, refuses
nothing: a program may ask for a GPU or for other ranks, and may need a file that a check does not
write.
"""

import functools
import importlib
import os
import pickle
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.apart.rank import become_rank_0
from getiaction_launch.checking.apart.sandbox import BlockedError, wishes
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, ok, unknown
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.worker.program import run_as_main

LIMIT_SECONDS = 20
"""How long a program may take to its second step without being asked for."""
STEPS = 2
_CERTAIN = (ImportError, SyntaxError, NameError, EOFError, FileNotFoundError, pickle.PickleError)
"""What does not depend on how many ranks there are, nor on a GPU."""
_PICKLE = re.compile(r"can't pickle|cannot pickle", re.IGNORECASE)
_OF_THE_LAUNCH = re.compile(
    r"world|rank|distributed|torchrun|nproc|cuda|gpu|nccl|device|slurm|process group", re.IGNORECASE
)
"""Words by which a program asks how it was launched."""
_NO_GROUP = "process group has not been initialized"
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
        # The trial is as the run if that has one rank without a GPU, too.
        self._is_alike = plan.topology == Topology(1, 1, 0)
        self._plan = replace(plan, topology=Topology(1, 1, 0))
        self._source, self._place, self._apart = source, place, apart
        self._steps: Counter[int] = Counter()

    def run(self) -> None:
        """Run the program, and report how it ends if it ends before its second step."""
        import torch  # before this process is closed off
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from getiaction_launch.checking.devices import standing_in

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        said = self._apart.hear()
        (self._apart.scratch / "run").mkdir()
        if not become_rank_0(self._plan, self._apart.scratch):
            why = "Linux has no Landlock here, by which what a program writes is refused"
            self._apart.send(unknown("training", why))
            return
        _forbid_programs()
        os.environ["MASTER_PORT"] = str(port)
        sys.argv, sys.path[0] = [*self._plan.script], self._plan.working_directory
        register_optimizer_step_post_hook(self._note)
        distributed = torch.distributed
        distributed.init_process_group = _on_cpu(distributed.init_process_group)
        with standing_in(0):
            try:
                run_as_main(self._plan)
            except BaseException as error:  # noqa: BLE001 - whatever the program raises
                self._apart.send(self._ending(error, said()))
            else:
                self._apart.send(unknown("training", _UNTRAINED))

    def _note(self, optimizer: object, *_: object) -> None:
        self._steps[id(optimizer)] += 1
        if self._steps[id(optimizer)] == STEPS:
            self._apart.send(ok("training", f"{STEPS} optimizer steps on the CPU, as one rank"))
            self._apart.leave()  # not by an exception, which the program could catch

    def _ending(self, error: BaseException, said: str) -> Finding:
        from getiaction_launch.checking.trial.endings import ending_of, is_of_parser

        if isinstance(error, SystemExit) and error.code in (None, 0):
            return unknown("training", _UNTRAINED)
        found = ending_of(error, str(self._source.path), said, self._place)
        if not found.is_refusal or is_of_parser(error):
            return found
        fix = found.fix
        if _NO_GROUP in str(error):
            fix = "Call torch.distributed.init_process_group() before this line"
        if wishes:
            why = f"a check does not {wishes[0]}; the program then failed: {found.evidence}"
            return unknown("training", why)
        line = "".join(frame.line or "" for frame in own_frames(error)[-1:])
        is_certain = isinstance(error, _CERTAIN) or bool(_PICKLE.search(str(error)))
        is_of_launch = bool(_OF_THE_LAUNCH.search(f"{error} {line}"))
        if self._is_alike or (
            is_certain and not is_of_launch and not isinstance(error, UnboundLocalError)
        ):
            return replace(found, fix=fix)
        what = f"as one rank on the CPU, it fails: {found.evidence}"
        is_told = _NO_GROUP in str(error) or not is_of_launch
        return doubt("training", found.key, what, fix) if is_told else unknown("training", what)


def _forbid_programs() -> None:
    """Refuse what Python reports to no audit hook: processes by spawn, and named shared memory."""
    import multiprocessing.util

    def refuse(wish: str) -> Callable[..., Any]:
        def refused(*_: object, **__: object) -> Any:  # noqa: ANN401 - it does not return
            raise BlockedError(wish)

        return refused

    multiprocessing.util.spawnv_passfds = refuse("start another program")
    memory: Any = importlib.import_module("_posixshmem")
    memory.shm_open = refuse("make shared memory with a name")


def _on_cpu(initialize: Callable[..., Any]) -> Callable[..., Any]:
    """Have a process group use gloo in place of NCCL."""

    @functools.wraps(initialize)
    def wrapper(backend: str | None = None, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as torch has it
        options.pop("device_id", None)
        is_nccl = backend is not None and "nccl" in str(backend)
        return initialize("gloo" if is_nccl else backend, *arguments, **options)

    return wrapper
