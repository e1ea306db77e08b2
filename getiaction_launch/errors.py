"""Every error that a user can meet, on one screen.

Each one says what was wrong, with the user's own key and value, and gives the fix, ready to paste.
The command line prints ``error: <what>`` with the fix below it, and no traceback.
"""

import contextlib
import difflib
import errno
import os
import shlex
from collections.abc import Iterable, Iterator

NEAREST = 3
_SYNONYMS = (
    {"gpus", "gpu", "n_gpus", "num_gpus", "ngpus", "gres", "devices", "nproc_per_node"},
    {"nodes", "node", "n_nodes", "num_nodes", "nnodes"},
    {"time", "walltime", "time_limit", "timelimit", "timeout", "time_limit_minutes"},
    {"mem", "memory", "mem_per_node", "ram", "memory_mb"},
    {"cpus_per_task", "cpus_per_worker", "cpus", "n_cpus", "num_cpus", "ncpus"},
    {"partition", "queue"},
    {"account", "project"},
    {"nodelist", "hosts", "node_list"},
    {"name", "job_name", "run_name", "experiment_name"},
    {"storage_root", "root", "default_root_dir", "root_dir", "output_dir", "save_dir"},
    {"env_vars", "env", "environment"},
    {"setup", "modules", "prologue"},
    {"crashes", "max_crashes", "retries", "max_retries", "max_restarts"},
    {"max_epochs", "epochs", "num_epochs", "n_epochs"},
    {"max_steps", "steps", "num_steps", "n_steps"},
    {"follow", "tail"},
    {"dry_run", "test_only"},
    {"run", "launch", "submit", "start", "train", "sbatch"},
    {"ls", "jobs", "queue", "squeue", "runs", "show"},
    {"status", "info", "describe", "state"},
    {"logs", "log", "tail", "output"},
    {"cancel", "kill", "scancel", "abort"},
    {"wait", "watch", "join", "srun"},
    {"resume", "continue", "restart", "requeue", "retry"},
    {"rerun", "repeat", "relaunch", "again", "resubmit"},
    {"rm", "remove", "delete", "del", "prune", "clean"},
    {"compare", "diff", "cmp"},
    {"exec", "ssh", "shell", "attach"},
    {"pull", "download", "get", "fetch", "cp", "sync"},
)
"""Words that people type for the same thing, in the spelling of :func:`_plain`."""
_SIMILAR = 0.6


class LaunchError(Exception):
    """Base class: something that the user or the site's administrator can fix.

    Args:
        what: What was wrong, with the user's own key and value.
        fix: What to do about it, ready to paste; empty if there is nothing to do.

    Attributes:
        exit_code: Exit code of the command that this error ends.
        what: What was wrong, in a sentence.
        fix: What to do about it; empty if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what, self.fix = what, fix


class UsageError(LaunchError):
    """The command line is wrong."""

    exit_code = 2


class SpecError(LaunchError):
    """The spec (YAML, overrides or script) is wrong."""

    exit_code = 2


class ClusterConfigError(LaunchError):
    """The cluster config is missing or wrong."""

    exit_code = 2


class RunNotFoundError(LaunchError):
    """No run has the given name, directory or URL."""

    exit_code = 2


class CheckError(LaunchError):
    """The plan is well-formed, but this cluster or storage cannot carry it out."""

    exit_code = 3


class RefusedError(LaunchError):
    """A scheduler rejected a job or a command; the message quotes it."""

    exit_code = 4


class UnreachableError(LaunchError):
    """A scheduler or storage does not answer, or cannot be understood."""

    exit_code = 5


class RecordError(UnreachableError, ValueError):
    """A record in a run's directory is damaged; the message names the file and the key.

    Also a ValueError, so code that tolerates text that is not JSON tolerates a damaged record.
    """


class StorageError(UnreachableError, OSError):
    """An operation on remote storage failed; the message quotes the storage.

    Also an OSError, so code that tolerates a failing disk tolerates failing storage.
    """


class DiskError(UnreachableError, OSError):
    """A disk refuses to read or to write; the message quotes the operating system.

    Also an OSError, so code that tolerates a failing disk tolerates this one.
    """


_DISK_FIXES = {
    errno.ENOSPC: "Free some space there: df -h {folder}; df -i {folder}",
    errno.EDQUOT: "Your quota there is used up: quota -s, or on Lustre lfs quota",
    errno.EACCES: "See who may write there: ls -ld {folder}",
    errno.EPERM: "See who may write there: ls -ld {folder}; lsattr -d {folder}",
    errno.EROFS: "The file system is mounted read-only: findmnt -T {folder}",
    errno.ESTALE: "The file server has restarted or the directory was removed: ls {folder}",
    errno.EIO: "The disk or the file server is failing: dmesg | tail",
    errno.ENOTCONN: "The file system is not mounted properly: findmnt -T {folder}",
    errno.ETIMEDOUT: "The file server does not answer: findmnt -T {folder}",
    errno.EHOSTDOWN: "The file server does not answer: findmnt -T {folder}",
}


FAILING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
"""Numbers of errors that another name for the directory would not help against."""


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of a disk, which the user can mend, into errors for the user.

    Raises:
        DiskError: If a disk refuses to read or to write; the message names the file.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, LaunchError) or error.errno not in _DISK_FIXES:
            raise
        name = str(error.filename or "the disk")
        folder = shlex.quote(os.path.dirname(name) or ".")  # noqa: PTH120 - a name, or nothing
        what = f"{name}: {error.strerror}."
        raise DiskError(what, _DISK_FIXES[error.errno].format(folder=folder)) from error


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for a message: ``1 node``, ``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest_first(word: str, valid: Iterable[str]) -> str:
    """List the three valid words that are nearest to a word, for the second line of an error.

    Args:
        word: The word that the user has typed.
        valid: The words that would have been valid.

    Returns:
        ``Did you mean 'a'? Nearest: a, b, c.``; without the question if no word is similar, and
        empty if no word is valid.
    """
    words = sorted(set(valid), key=lambda other: (_likeness(word, other), other), reverse=True)
    if not words:
        return ""
    is_similar = _likeness(_plain(word), _plain(words[0])) >= _SIMILAR  # without what flags share
    question = f"Did you mean {words[0]!r}? " if is_similar else ""
    return f"{question}Nearest: {', '.join(words[:NEAREST])}."


def _likeness(word: str, other: str) -> float:
    """Return how similar two flags, verbs or keys are: from 0 to 1, which is for synonyms."""
    plain, others = _plain(word), _plain(other)
    groups = [group for group in _SYNONYMS if plain in group]
    if plain == others or any({others, others.removesuffix("_per_node")} & g for g in groups):
        return 1
    ends = (word.rpartition(".")[2], other.rpartition(".")[2])
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((word, other), ends))


def _plain(word: str) -> str:
    """Return the last part of a key, in one spelling: ``num_nodes`` for ``--Num-Nodes``."""
    return word.lstrip("-").rpartition(".")[2].lower().replace("-", "_")
