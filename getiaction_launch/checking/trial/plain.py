"""A program without Lightning is run in a process apart, until it has made two optimizer steps.

It is the only rank there, on the CPU. What comes of that, and not of the program, refuses nothing:
a program may ask for a GPU or for other ranks, and may need a file that a check does not write.
"""

import contextlib
import functools
import io
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from getiaction_launch.checking.blame import own_frames
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, ok, unknown
from getiaction_launch.checking.source.source import Source
from getiaction_launch.checking.trial.apart import Apart
from getiaction_launch.checking.trial.rank import become_rank_0
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.worker.program import run_as_main

LIMIT_SECONDS = 20
"""How long a program may take to its second step without being asked for."""
STEPS = 2
MOST_ENTRIES = 5000
"""How many entries of the working directory are shown one by one."""
_NO_GROUP = "process group has not been initialized"
_OF_THE_LAUNCH = re.compile(
    r"world|rank|distributed|torchrun|nproc|cuda|gpu|nccl|device|slurm|process_group", re.IGNORECASE
)
"""Words by which a program asks how it was launched."""


class PlainProgram:
    """The program, in the process apart.

    Args:
        plan: The plan of the run, with a script or a module.
        source: This script or module, as it was read.
        place: Where the run would be started.
        apart: The process apart, which this one is.
    """

    def __init__(self, plan: Plan, source: Source, place: Place, apart: Apart) -> None:
        self._plan = replace(plan, topology=Topology(1, 1, 0))
        self._source, self._place, self._apart = source, place, apart
        self._steps = 0
        self._said = io.StringIO()

    def run(self) -> None:
        """Run the program, and report how it ends if it ends before its second step."""
        import torch  # before this process is closed off
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from getiaction_launch.checking.devices import standing_in

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.chdir(_shown(Path(self._plan.working_directory), self._apart.scratch / "here"))
        become_rank_0(self._plan, self._apart.scratch)
        os.environ["MASTER_PORT"] = str(port)
        sys.argv, sys.path[0] = [*self._plan.script], self._plan.working_directory
        sys.stderr = self._said
        register_optimizer_step_post_hook(self._note)
        distributed = torch.distributed
        distributed.init_process_group = _on_cpu(distributed.init_process_group)
        with standing_in(0):
            try:
                run_as_main(self._plan)
            except BaseException as error:  # noqa: BLE001 - whatever the program raises
                self._apart.send(self._ending(error))
            else:
                self._apart.send(unknown("training", "the program ends without an optimizer step"))

    def _note(self, *_: object) -> None:
        self._steps += 1
        if self._steps == STEPS:
            self._apart.send(ok("training", f"{STEPS} optimizer steps on the CPU, as one rank"))
            self._apart.leave()  # not by an exception, which the program could catch

    def _ending(self, error: BaseException) -> Finding:
        from getiaction_launch.checking.trial.endings import ending_of

        if isinstance(error, SystemExit) and error.code in (None, 0):
            return unknown("training", "the program ends without an optimizer step")
        os.chdir(self._plan.working_directory)  # for the names of files
        found = ending_of(error, str(self._source.path), self._said.getvalue(), self._place)
        line = "".join(frame.line or "" for frame in own_frames(error)[-1:])
        if found.is_refusal and _NO_GROUP in str(error):
            fix = "Call torch.distributed.init_process_group() before this line"
            return replace(found, fix=fix)
        if found.is_refusal and _OF_THE_LAUNCH.search(f"{error} {line}"):
            return unknown("training", f"as one rank on the CPU, it fails: {found.evidence}")
        return found


def _on_cpu(initialize: Callable[..., Any]) -> Callable[..., Any]:
    """Have a process group use gloo in place of NCCL."""

    @functools.wraps(initialize)
    def wrapper(backend: str | None = None, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as torch has it
        options.pop("device_id", None)
        is_nccl = backend is not None and "nccl" in str(backend)
        return initialize("gloo" if is_nccl else backend, *arguments, **options)

    return wrapper


def _shown(folder: Path, place: Path) -> Path:
    """Show a directory where it may be written to: what is in it, without what is added.

    Its directories are made anew, as many programs look for files below a directory, and do not
    follow links to others. Only what is more than a few thousand files is a link as a whole.
    """
    left, todo = MOST_ENTRIES, [(folder, place)]
    for source, target in todo:
        target.mkdir()
        with contextlib.suppress(OSError):
            entries = list(os.scandir(source))
            left -= len(entries)
            for entry in entries:
                is_shown = entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                if is_shown and left > 0:
                    todo.append((Path(entry.path), target / entry.name))
                else:
                    (target / entry.name).symlink_to(entry.path)
    return place
