"""The lines of ``setup``, read as bash reads them, and none of them run."""

import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

_OTHER_OPERATORS = re.compile(r"(?!;$)[();<>|&]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=.*", re.DOTALL)
_AT_LINE = re.compile(r"line (\d+): (.*)")
_SECONDS = 10


def syntax_error(lines: Sequence[str]) -> str:
    """Return what bash finds wrong with the syntax of lines that it reads one after the other.

    Args:
        lines: The lines of a script.

    Returns:
        Bash's own words with the line that they are about; empty if there is nothing, or no bash.
    """
    text = "\n".join(lines)
    # Lines may allow themselves the patterns of extglob, which -n does not see.
    plain = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    done = ask_bash(("-O", "extglob", "-n"), plain, text)
    found = _AT_LINE.search(done.stderr) if done and done.returncode else None
    if found is None:
        return ""
    line = [*text.split("\n"), ""][min(int(found[1]) - 1, text.count("\n") + 1)]
    return f"{found[2]} ({line.strip()})" if line.strip() else found[2]


def ask_bash(
    words: Sequence[str], variables: Mapping[str, str], text: str = ""
) -> "subprocess.CompletedProcess[str] | None":
    """Have bash judge something without running it; None if there is no bash, or no answer.

    Args:
        words: The arguments of bash.
        variables: The environment that bash gets.
        text: What it reads as a script.
    """
    bash = shutil.which("bash")
    if bash is None:
        return None
    try:
        return subprocess.run(
            [bash, *words],
            input=text,
            env=variables,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeError):
        return None


def plain_commands(lines: Sequence[str]) -> tuple[list[list[str]], bool]:
    """Return the words of each command, up to the first line that is more than commands.

    That is one with a condition, a loop, a pipe, a redirection or a part in another shell: from
    there on, what is executed depends on more than the words.

    Args:
        lines: The lines of a script, whose syntax is right.

    Returns:
        The commands, and whether they are all.
    """
    commands: list[list[str]] = []
    for line in "\n".join(lines).split("\n"):
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        try:
            words = list(reader)
        except ValueError:
            return commands, False  # a text in quotes has more lines
        if line.endswith("\\") or any(_OTHER_OPERATORS.fullmatch(word) for word in words):
            return commands, False
        for is_end, group in itertools.groupby(words, ";".__eq__):
            if not is_end:
                commands.append(list(group))
    return commands, True


def split_assignments(command: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command into the variables that stand before it, and its words.

    Args:
        command: The words of a command.
    """
    words = list(command)
    variables = {}
    while words and (found := _ASSIGNMENT.fullmatch(words[0])):
        variables[found[1]] = words.pop(0)
    return variables, words
