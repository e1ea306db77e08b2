"""A program that has come to its end is run once more, as each restart of the run would run it.

The process that does so is forked before the program has run, so that it knows nothing of it but
what it has left in its files.
"""

import json
import os
import pickle
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.plain.behind import LOADS_WEIGHTS, fix_of_load, told
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.child import die_with

RESTART = "resume"
"""The check that says what comes of a restart."""
_RESUMES = re.compile(r"\bload(_\w+)?\(|resum")
_OF_WORDS = re.compile(
    r"expected (one|\d+|at least one) argument|unrecognized arguments|invalid choice|"
    r"ambiguous option"
)
"""What a parser says of its words alone, whatever an earlier attempt has left."""
_LOST = (FileExistsError, FileNotFoundError, KeyError)
"""Errors that may come of what is there, or of what the first attempt has not come to."""


def can_resume(plan: Plan, source: Source) -> bool:
    """Return whether a program seems to look for what an earlier attempt has left.

    Args:
        plan: The plan of the run.
        source: The program, as it was read.
    """
    return bool(plan.resume_args or _RESUMES.search(source.text))


class Again:
    """Two processes, of which one waits until the other has run the program.

    Args:
        apart: The process apart, which runs the program first.

    Attributes:
        is_second: Whether this process is the one that runs the program once more.
        has_files: Whether the first attempt has left files.
    """

    def __init__(self, apart: Apart) -> None:
        self.is_second = False
        self.has_files = True
        self._apart = apart
        self._orders = -1
        self._begun = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether another process waits to run the program once more."""
        return self._orders >= 0

    def fork(self) -> None:
        """Return at once where the program is run first, and in the other process once it may."""
        (reader, writer), parent_pid = os.pipe(), os.getpid()
        self.is_second = os.fork() == 0
        if not self.is_second:
            os.close(reader)
            self._orders = writer
            return
        die_with(parent_pid)
        os.close(writer)
        order = os.read(reader, 64)
        if not order:
            os._exit(0)
        seconds, self.has_files = json.loads(order)
        limit = threading.Timer(seconds, self._apart.leave)
        limit.daemon = True
        limit.start()

    def begin(self, plan: Plan) -> None:
        """Have the program run once more, for as long as it has run here.

        It must have left files, or get other words then. This does not return then: the other
        process ends this one.

        Args:
            plan: The plan of the run.
        """
        has_files = _has_files(self._apart.scratch)
        if self.is_ready and (has_files or plan.resume_args):
            os.write(self._orders, dumps([time.monotonic() - self._begun, has_files]).encode())
            _sleep()


def of_restart(error: BaseException, found: Finding, again: Again) -> Finding | None:
    """Return what the end of a second attempt stands for; None if it says nothing.

    The first attempt has come to its end, which an interrupted one has not, so there is an error
    that comes of that alone, such as one for a loop of no epochs.

    Args:
        error: What has ended it.
        found: What that stands for in a first attempt.
        again: This attempt; if the first one has left no files, only its words are refused.
    """
    from getiaction_launch.checking.trial.endings import is_of_parser

    is_of_words = bool(_OF_WORDS.search(found.evidence)) and is_of_parser(error)
    if not found.is_refusal or not (again.has_files or is_of_words):
        return None
    evidence, fix = (
        f"a restart fails: {told(error, found.evidence)}",
        fix_of_load(error) or found.fix,
    )
    if is_of_words:
        fix = f"Change --resume-args, with which each restart begins. {fix}"
    is_loaded = isinstance(error, pickle.PickleError) or LOADS_WEIGHTS in str(error)
    if is_loaded or is_of_parser(error):
        return replace(found, check=RESTART, evidence=evidence, fix=fix)
    return doubt(RESTART, found.key, evidence, fix) if isinstance(error, _LOST) else None


def _has_files(scratch: Path) -> bool:
    return any(scratch.glob("layer_*/upper/*")) or any(scratch.glob("run/*"))


def _sleep() -> NoReturn:
    while True:
        time.sleep(60)
