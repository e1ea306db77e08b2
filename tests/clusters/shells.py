"""Real shells, in which a test types a line as a person does and presses TAB."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

INSTALL = "apt-get install -y --no-install-recommends zsh fish"
LIMIT_SECONDS = 60
PROGRAM = "getiaction-launch"
_RC = f"""
PS1="ready> " TERM=dumb
{PROGRAM}() {{ printf "%s\\n" "$@" >typed; echo "ty""ped"; }}
"""
_START = {
    "bash": (["bash", "--noprofile", "--rcfile", ".zshrc", "-i"], ""),
    "zsh": (["zsh", "-d", "-i"], "autoload -Uz compinit && compinit -u -D\n"),
}


def missing() -> str | None:
    """Why this machine lacks a shell, with the remedy; None if it has all."""
    lacking = [name for name in ("bash", "zsh", "fish") if not shutil.which(name)]
    return f"{' and '.join(lacking)}: {INSTALL}" if lacking else None


def press_tab(shell: str, script: Path, lines: list[str], directory: Path) -> list[list[str]]:
    """Return the words that the program gets when each line is typed, then TAB and Enter.

    Args:
        shell: ``bash`` or ``zsh``.
        script: What the shell loads first.
        lines: What is typed behind the program's name, one after another.
        directory: Working directory of the shell.
    """
    command, first = _START[shell]
    (directory / ".zshrc").write_text(f'{_RC}{first}eval "$(cat {shlex.quote(str(script))})"\n')
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "ZDOTDIR": str(directory), "HOME": str(directory)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    typed, words = directory / "typed", []
    try:
        for line in lines:
            _read_until(ours, "ready> ")
            os.write(ours, f"{PROGRAM} {line}\t\n".encode())
            _read_until(ours, "typed")
            words.append(typed.read_text().splitlines())
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return words


def candidates(script: Path, line: str, directory: Path) -> list[str]:
    """Return what fish offers when TAB is pressed behind a line."""
    program = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(f'{PROGRAM} {line}')}"
    done = subprocess.run(
        [shutil.which("fish") or "fish", "--no-config", "-c", program],
        cwd=directory,
        env={**os.environ, "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    assert not done.stderr, done.stderr
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def _read_until(descriptor: int, word: str) -> None:
    """Read one byte at a time, so that nothing behind the word is lost."""
    seen, deadline = "", time.monotonic() + LIMIT_SECONDS
    while word not in seen:
        left = max(0, deadline - time.monotonic())
        assert select.select([descriptor], [], [], left)[0], f"no {word!r} after {seen!r}"
        seen += os.read(descriptor, 1).decode(errors="replace")
