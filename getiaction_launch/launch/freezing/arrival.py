"""Code that another machine has sent: a run is prepared with it, and trains a copy of it.

It is unpacked here only while a run is submitted. In what is recorded of the run, its files have
the paths that they have on the machine that sent them, as those are the ones to correct.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan


@dataclass(frozen=True)
class Arrival:
    """Code that has arrived.

    Attributes:
        code: What it is; its root is a directory of the machine that sent it.
        archive: Path of the archive of its files.
        tree: The directory in which these files are unpacked.
        is_private: Whether others may not read one of the files.
        typed: Further paths that came with it, and the words that stand for them on that machine.
    """

    code: Code
    archive: Path
    tree: Path
    is_private: bool = False
    typed: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The directory in which the command was typed, in the unpacked files."""
        return Path(os.path.normpath(self.tree / (self.code.home or ".")))

    def copy_to(self, packed: Path) -> str:
        """Copy the archive, and return its SHA-256."""
        from getiaction_launch.mirror.transfer import hash_of  # slow to import

        shutil.copyfile(self.archive, packed)
        return hash_of(packed)

    def applied(self, plan: Plan) -> Plan:
        """Return a plan that was prepared in the unpacked files, with the paths to record.

        Args:
            plan: The plan of a run that is not submitted, or of one that is there and shall train
                this code from here on.

        Raises:
            CheckError: If the run trains a script that has not come with this code.
        """
        script, code = [*plan.script], self.code
        if plan.script_path:
            script[0] = self._there(script[0])
            if not Path(script[0]).is_relative_to(code.root):
                raise CheckError(
                    f"the run trains {script[0]}, which is not in the code that was sent, "
                    f"{code.root}.",
                    "Type the command in the directory of that script.",
                )
        if plan.code and plan.code.home is not None and plan.code.root == code.root:
            code = replace(code, home=plan.code.home)  # where its first attempt was started
        is_here = plan.working_directory == str(self.directory)
        return replace(
            plan,
            script=script,
            words=[self._there(word) for word in plan.words],
            working_directory=str(Path.cwd()) if is_here else plan.working_directory,
            code=code,
        )

    def _there(self, word: str) -> str:
        for here, there in {**self.typed, str(self.tree): self.code.root}.items():
            word = word.replace(here, there)
        return word


_ARRIVAL: ContextVar[Arrival | None] = ContextVar("arrival", default=None)


@contextlib.contextmanager
def preparing_with(arrival: Arrival) -> Iterator[None]:
    """Have runs that are prepared in the context train this code, and not files of this machine.

    Args:
        arrival: The code, whose modules this process can import then.
    """
    token, before = _ARRIVAL.set(arrival), [*sys.path]
    # The working directory comes last, which the interface of specs puts first if it is not there.
    sys.path[:] = [str(arrival.directory), *before, str(Path.cwd())]
    try:
        yield
    finally:
        sys.path[:] = before
        _ARRIVAL.reset(token)


def arrived() -> Arrival | None:
    """Return the code to prepare runs with; None for files of this machine."""
    return _ARRIVAL.get()
