"""Text from outside: names that are refused, reasons that are cut, and what a terminal may get.

A newline in a name would begin another line of a batch script. An escape sequence in an exception
would be obeyed by the terminal that shows it, and a character that turns the direction of writing
around makes a line say something else than it does.
"""

import re

from getiaction_launch.errors import SpecError

LONGEST_LINE = 300
MOST_LINES = 8
_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0, DEL and C1, except for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    "\u2028\u2029"  # ends of lines and paragraphs
    "\ud800-\udfff"  # bytes that are not UTF-8
)
_UNSAFE = re.compile(f"[{_CONTROLS}]")
_UNSAFE_IN_NAMES = re.compile(f"[\t\n{_CONTROLS}]")
_COLOUR = re.compile(r"(\x1b\[[0-9;:]*m)")
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: cursor, screen, modes
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS
    r"|\x1b[ -/]*[0-~]"
)


def check_name(what: str, text: str) -> str:
    """Return a name or a path, unless it has control characters.

    Args:
        what: The key that has this value, for the error message.
        text: The name or the path.

    Raises:
        SpecError: If it has a newline or another control character.
    """
    if found := _UNSAFE_IN_NAMES.search(text):
        raise SpecError(
            f"{what}={text!r} has a control character: {_escape(found)!r}."
            if found[0] not in "\n\t"
            else f"{what}={text!r} has a {'newline' if found[0] == chr(10) else 'tab'}.",
            "Use letters, digits, and such characters as can be seen.",
        )
    return text


def clean(text: str) -> str:
    r"""Return text that a terminal only shows: control characters as ``\x1b``.

    Tabs and newlines stay.
    """
    return _UNSAFE.sub(_escape, text)


def clean_line(text: str) -> str:
    r"""Return text for one line of a terminal: newlines are shown as ``\n``, too."""
    return _UNSAFE_IN_NAMES.sub(_escape, text)


def clean_log(line: str) -> str:
    """Return a line of a log as a terminal may get it: with its colours, and nothing else to obey.

    Sequences that move the cursor, clear the screen, set the window's title or ask the terminal
    for an answer are removed.
    """
    parts = _COLOUR.split(line)
    parts[::2] = [clean(_SEQUENCE.sub("", part)) for part in parts[::2]]
    return "".join(parts) + ("\x1b[0m" if len(parts) > 1 else "")


def shorten(text: str) -> str:
    """Cut a reason: each line to :data:`LONGEST_LINE`, and to :data:`MOST_LINES` lines."""
    lines = text.split("\n", MOST_LINES + 1)[: MOST_LINES + 1]
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..." for line in lines
    )


def _escape(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode()
