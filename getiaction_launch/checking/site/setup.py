"""What the lines of ``setup`` name, and how a job starts Python: whether it is there."""

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.backends.slurm.options import spell
from getiaction_launch.backends.slurm.submit.sbatch import sbatch_environment
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.site.files import Files
from getiaction_launch.checking.site.lines import (
    ask_bash,
    plain_commands,
    split_assignments,
    syntax_error,
)
from getiaction_launch.plan.plan import Plan

_CHECK = "setup"
_MODULES = ("module", "ml")
_CONDA = ("conda", "mamba", "micromamba")
_INERT = {
    *("echo", "printf", "ulimit", "umask", "unset", "true", ":", "hostname", "date", "nvidia-smi"),
    *("rocm-smi", "env", "printenv", "which", "type", "lscpu", "uname", "free", "df", "ls", "cat"),
    *("sleep", "id", "whoami", "pwd", "trap"),
}
"""Commands that make no file, and change neither PATH nor functions; some are on nodes only."""
_INITS = (
    *("/etc/profile.d/modules.sh", "/etc/profile.d/lmod.sh", "/etc/profile.d/z00_lmod.sh"),
    *("/usr/share/lmod/lmod/init/bash", "/usr/share/modules/init/bash"),
)
_IMAGES = (".sif", ".simg", ".sqsh")


def check_setup(plan: Plan, place: Place) -> Iterator[Finding]:
    """Find what the batch script of a job would not find: files, module systems, Python.

    No line is run. Nodes may have files and programs that this machine lacks, so only what is
    missing on a file system that they share is refused, and a function that the job does not get.

    Args:
        plan: The plan of the run.
        place: Where the run would be started.
    """
    if "sbatch" not in place.settings:
        return  # the machines of a Ray cluster need not share a file with this one
    lines = [str(line) for line in place.settings.get("setup") or ()]
    if said := syntax_error(lines):
        yield refusal(
            _CHECK,
            "setup",
            f"setup: bash cannot read it: {said}.",
            "Correct the line; to try all of them: bash -n FILE",
        )
        return
    reading = _Reading(plan, Files.of(plan), "get-user-env" in spell(place.settings["sbatch"]))
    yield from reading.judge(lines)
    python = place.settings.get("python")
    if python and not reading.may_make_files:
        yield from reading.judge_python(str(python))


@dataclass
class _Reading:
    """The lines of ``setup``, read from the first on.

    Attributes:
        plan: The plan of the run.
        files: The files that the run will find.
        has_login: Whether SLURM gives the job the variables of a login shell.
        stops: Whether a command that fails ends the job, as after ``set -e``.
        is_other_shell: Whether a line may have defined functions, or changed PATH.
        is_elsewhere: Whether a line has changed the directory.
        may_make_files: Whether a line may have made files, or its effect is not known.
    """

    plan: Plan
    files: Files
    has_login: bool
    stops: bool = False
    is_other_shell: bool = False
    is_elsewhere: bool = False
    may_make_files: bool = False

    def judge(self, lines: Sequence[str]) -> Iterator[Finding]:
        """Judge lines up to the first one whose effect is not known."""
        commands, is_whole = plain_commands(lines)
        for command in commands:
            variables, words = split_assignments(command)
            self.is_other_shell |= "PATH" in variables
            if words:
                yield from self._judge(words)
            if self.may_make_files:
                return
        self.may_make_files = not is_whole

    def judge_python(self, python: str) -> Iterator[Finding]:
        """Judge the program that starts Python behind the lines, and the image of a container.

        Args:
            python: How a job starts Python.
        """
        try:
            words = shlex.split(python)
        except ValueError:
            return
        named = [word for number, word in enumerate(words) if number == 0 or word.endswith(_IMAGES)]
        for word in named:
            is_program = word == words[0]
            path = self.files.find(word) if "/" in word or not is_program else None
            if path is None or "://" in word or self._is_moved(word):
                continue
            is_there = path.exists()
            if is_there and (not is_program or (path.is_file() and os.access(path, os.X_OK))):
                continue
            noun = "program" if is_program else "image"
            what = f"python: {python}: " + (
                f"{word} is not a program" if is_there else f"there is no {noun} {word}"
            )
            fix = f"Name a {noun} that all nodes have, or leave out python: python: null"
            if is_there or self.files.is_shared(path):
                yield refusal("python", "python", f"{what}.", fix)
            else:
                yield doubt(
                    "python", "python", f"{what} on this machine, and perhaps on no node.", fix
                )

    def _judge(self, words: Sequence[str]) -> Iterator[Finding]:
        first = words[0]
        if first == "set":
            self._switch(words[1:])
        elif first in ("source", ".") and len(words) > 1:
            yield from self._source(words[1], " ".join(words))
        elif first == "cd":
            self.is_elsewhere = True
        elif first in ("export", "declare", "typeset"):
            self.is_other_shell |= any(word.startswith("PATH=") for word in words[1:])
        elif first in _INERT:
            pass
        elif first in _MODULES or (first in _CONDA and words[1:2] == ["activate"]):
            yield from self._function(words)
            self.is_other_shell = True
        else:
            self.may_make_files = True
            yield from self._program(words)

    def _switch(self, words: Sequence[str]) -> None:
        for number, word in enumerate(words):
            named = "errexit" in words[number + 1 : number + 2] and word.endswith("o")
            if word[:1] in ("-", "+") and ("e" in word or named):
                self.stops = word[0] == "-"

    def _source(self, word: str, line: str) -> Iterator[Finding]:
        path = self.files.find(word)
        is_known = "/" in word or not (self.is_other_shell or shutil.which(word))
        self.is_other_shell = True
        if path is not None and is_known and not self._is_moved(word) and not path.exists():
            what = f"setup: {line!r}: there is no {path}"
            yield self._missing(what, path, "Name a file that is there")

    def _program(self, words: Sequence[str]) -> Iterator[Finding]:
        first = words[0]
        path = self.files.find(first) if "/" in first else None
        if path is not None and not self._is_moved(first) and not path.exists():
            what = f"setup: {' '.join(words)!r}: there is no {path}"
            yield self._missing(what, path, "Name a program that is there")

    def _is_moved(self, word: str) -> bool:
        return self.is_elsewhere and not word.startswith(("/", "~", "$"))

    def _missing(self, what: str, path: Path, fix: str) -> Finding:
        if not self.files.is_shared(path):
            words = f"{what} on this machine, and perhaps on no node."
            return doubt(_CHECK, "setup", words, f"{fix} on the nodes.")
        return self._failing(what, f"{fix}, or leave out the line.")

    def _failing(self, what: str, fix: str) -> Finding:
        """Return that a line fails, which ends the job only if the lines say so."""
        if self.stops:
            return refusal(_CHECK, "setup", f"{what}, and set -e ends the job there.", fix)
        return doubt(_CHECK, "setup", f"{what}; without set -e the job continues without it.", fix)

    def _function(self, words: Sequence[str]) -> Iterator[Finding]:
        """Judge a command that is a function of the shell, which a batch job often lacks."""
        first, line = words[0], " ".join(words)
        if self.is_other_shell:
            return
        kind = self._kind(first)
        if kind is None or kind == "function" or (first in _MODULES and kind):
            return
        if first in _MODULES:
            found = next((name for name in _INITS if Path(name).exists()), None)
            what = f"setup: {line!r}: the shell of a job does not know {first!r}"
            fix = (
                f"Have it defined before: setup: ['source {found}', {line!r}]"
                if found
                else "Leave it out if there is no module system, or have it defined before: "
                f"setup: ['source /path/to/init/bash', {line!r}]"
            )
        else:
            what = f"setup: {line!r} fails in a job, whose shell conda has not been set up for"
            fix = (
                "Set it up before: setup: ['source ~/miniforge3/etc/profile.d/conda.sh', "
                f"{line!r}]; the base directory is what this prints: conda info --base"
            )
        yield self._failing(what, fix)

    def _kind(self, word: str) -> str | None:
        """Return what the shell of a job would take a word for: ``function``, ``file``, or nothing.

        None if that is not known, as the job gets other variables than this shell has.
        """
        with sbatch_environment((), self.plan.forward_env_vars):
            variables = dict(os.environ)
        if self.has_login or "SBATCH_GET_USER_ENV" in variables:
            return None
        done = ask_bash(("-c", 'type -t -- "$1"', "bash", word), variables)
        return done.stdout.strip() if done else None
