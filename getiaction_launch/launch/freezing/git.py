"""What git says about a directory; nothing if there is no git, or it refuses."""

import os
import subprocess
import threading
from pathlib import Path

LIMIT_SECONDS = 20
_OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""What git sets for hooks and aliases, which would mean another repository."""
_OPTIONS = ("-c", "core.quotePath=false", "-c", "core.fsmonitor=false")


def ask(directory: Path | str, *words: str, limit_bytes: int | None = None) -> str | None:
    """Run a command of git that changes nothing, and return what it prints.

    Args:
        directory: Directory to run it in.
        words: The command and its arguments.
        limit_bytes: How much of the output to read; the rest is not waited for.

    Returns:
        The output; None if the command failed, as it does outside a repository or in one that
        belongs to another user.
    """
    # Nothing may be written, as by `git status`, since another git may run there.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
    for name in _OF_HOOKS:
        environment.pop(name, None)
    command = ["git", "-C", str(directory), *_OPTIONS, *words]
    try:
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            timer = threading.Timer(LIMIT_SECONDS, process.kill)
            timer.start()
            try:
                said = process.stdout.read(limit_bytes or -1) if process.stdout else b""
                is_whole = limit_bytes is None or len(said) < limit_bytes
                has_failed = is_whole and process.wait() != 0
            finally:
                process.kill()
                timer.cancel()
    except OSError:
        return None
    return None if has_failed else os.fsdecode(said)


def top_level(directory: Path | str) -> Path | None:
    """Return the top directory of the repository that a directory is in; None if it is in none."""
    said = ask(directory, "rev-parse", "--show-toplevel")
    return Path(said.removesuffix("\n")) if said else None
