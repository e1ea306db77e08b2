"""Which code a run trains: its version, and where the copy of it is that was made at submission."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOST_MB = 2000.0
_ARCHIVE = re.compile(r"\.code(-\d+)?/[0-9a-f]{64}\.tar\.gz")
_SHOWN = 12
_LONGEST = 40
_FRAME = re.compile(r'^( *File ")([^"\n]{1,4096})', re.MULTILINE)


@dataclass(frozen=True)
class Snapshot:
    """Whether a run trains a copy of the user's code that is made at submission.

    Attributes:
        enabled: Whether to copy it; without a copy, each attempt runs the files as they are then.
        limit_mb: Largest size of the copied files together, in MB.
        exclude: Patterns of files and directories that are not copied, such as `assets` or
            `docs/*.csv`, relative to the top directory of the code.
    """

    enabled: bool = True
    limit_mb: float = 50
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.limit_mb <= MOST_MB:  # also refuses NaN
            raise ValueError(
                f"snapshot.limit_mb={self.limit_mb} must be more than 0, and {MOST_MB:g} at most"
            )


@dataclass(frozen=True)
class Code:
    """The code of a run, as it was when the run was submitted.

    Attributes:
        root: The directory that holds it: a git repository, or that of the script or the command.
        commit: The commit that is checked out there; None without git.
        is_dirty: Whether files differ from the commit, new ones included; None without git.
        diff: How tracked files differ from the commit, up to 64 KiB.
        versions: Versions of Python and of the main packages, by name, where it was submitted.
        archive: Path of the copy, relative to the directory that holds all runs; None without one.
        digest: SHA-256 of that file.
        contents: SHA-256 of the names and contents of the files in it; empty in earlier versions.
        links: Paths below ``root`` that were not copied, such as data, and can be reached from the
            copy; each with the path in the copy that it stands for, or "" for what is at ``root``.
        not_covered: What a change may still reach, although there is a copy, for people.
        home: Path below ``root`` of the directory that the run's working directory stands for: the
            one in which the command was typed, on another machine. None where the code lies on the
            machine that submits.
    """

    root: str = ""
    commit: str | None = None
    is_dirty: bool | None = None
    diff: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    archive: str | None = None
    digest: str = ""
    contents: str = ""
    links: dict[str, str] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    home: str | None = None

    def __post_init__(self) -> None:
        # Paths of files that are read, and a plan may come from anybody.
        if self.home is not None and (self.home.startswith("/") or ".." in self.home.split("/")):
            raise ValueError(f"code.home={self.home!r} is not a path below the code")
        name = f"{self.digest}.tar.gz"
        if self.archive is not None and not (
            _ARCHIVE.fullmatch(self.archive) and self.archive.endswith(f"/{name}")
        ):
            raise ValueError(f"code.archive={self.archive!r} is not the path of a copy of code")

    @property
    def title(self) -> str:
        """The version for people: ``1a2b3c4d5e6f with changes``; empty if git does not know it."""
        changes = " with changes" if self.is_dirty else ""
        return f"{self.commit[:_SHOWN]}{changes}" if self.commit else ""

    @property
    def packages(self) -> str:
        """The versions of Python and of the main packages, for people."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())

    @property
    def folder(self) -> str:
        """The name of the directory that holds the copy on a node."""
        name = os.path.basename(self.root)  # noqa: PTH119 - a name
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_LONGEST].lstrip(".") or "code"

    def as_typed(self, path: str) -> str:
        """Return where the user has a file, for its path in the copy; any other path unchanged.

        Args:
            path: Path of a source file, as a worker knows it.
        """
        found = re.search(rf"/code-[0-9a-f]{{12}}/{re.escape(self.folder)}(?=/)", path)
        return f"{self.root}{path[found.end() :]}" if self.archive and found else path

    def with_typed_frames(self, text: str) -> str:
        """Return a text with the user's own paths in the lines of tracebacks.

        Other paths stay: what is missing in the copy may be in the user's directory by now.

        Args:
            text: What a worker has said.
        """
        return _FRAME.sub(lambda frame: f"{frame[1]}{self.as_typed(frame[2])}", text)

    def summary(self) -> dict[str, object]:
        """Return what the code is, for machines, without the names of its files."""
        return {
            "root": self.root,
            "commit": self.commit,
            "is_dirty": self.is_dirty,
            "is_copied": self.archive is not None,
            "not_covered": self.not_covered,
            "versions": self.versions,
        }

    def moved(self, home: str, here: str) -> Iterator[tuple[str, str]]:
        """Yield each directory whose files are copied, and its path in the copy.

        Args:
            home: The working directory of the plan.
            here: Where that directory is on this machine: Ray gives nodes a copy of it.
        """
        if self.home is not None:
            yield here, self.home
        yield self.root, "."
        if self.home is not None:
            return
        home = os.path.realpath(home)
        if home == os.path.realpath(here):
            return
        if Path(home).is_relative_to(self.root):
            yield here, os.path.relpath(home, self.root)
        elif Path(self.root).is_relative_to(home):
            yield str(Path(here, os.path.relpath(self.root, home))), "."
