"""Whether a file that a job needs on its nodes is there, as far as this machine can say."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.plan.plan import Plan
from getiaction_launch.storage.paths import is_remote, open_path
from getiaction_launch.storage.variables import variable_in

_HOME = re.compile(r"\$\{?HOME\b\}?(?=/|$)")
_OF_SHELLS = re.compile(r"[$`*?\[{]")


@dataclass(frozen=True)
class Files:
    """The files of this machine, of which the nodes share some.

    Attributes:
        shared: Directories that are on all nodes, or no job could run: the user's home, that of
            the run, and the one in which its job starts.
    """

    shared: tuple[Path, ...]

    @classmethod
    def of(cls, plan: Plan) -> "Files":
        """Return the files that a run will find.

        Args:
            plan: The plan of the run.
        """
        here = Path(plan.working_directory)
        root = () if is_remote(open_path(plan.root)) else (Path(plan.root),)
        return cls((here, Path.home(), *root))

    def find(self, word: str) -> Path | None:
        """Return the path that a word of a shell stands for; None if only a node's shell knows.

        Args:
            word: The word without its quotes.
        """
        path = os.path.expanduser(_HOME.sub("~", word, count=1))  # noqa: PTH111 - never raises
        if variable_in(path) or _OF_SHELLS.search(path) or path.startswith("~"):
            return None
        return self.shared[0] / path

    def is_shared(self, path: Path) -> bool:
        """Return whether a path is the same on all nodes, so that what is missing is missing there.

        Args:
            path: Absolute path of a file.
        """
        plain = Path(os.path.normpath(path))
        return any(plain.is_relative_to(each) for each in self.shared if len(each.parts) > 1)
