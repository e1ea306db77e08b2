"""Whose each typed word is: the launcher's, the spec's, or the program's."""

from collections.abc import Sequence

from getiaction_launch.cli.typed.cut import refuse_cut_value
from getiaction_launch.errors import UsageError
from getiaction_launch.plan.spec import SECTIONS

PROGRAM_MARKS = ("--", "-m")
"""Words behind which everything belongs to a program: a command, or a module."""
RESUME_ARGS = "--resume-args"
"""The one flag whose value usually looks like a flag."""


def begins_program(word: str) -> bool:
    """Return whether this word and everything behind it belong to a program.

    Args:
        word: A word of the command line, unless it is the value of a flag.
    """
    return word in PROGRAM_MARKS or (not word.startswith("-") and word.endswith(".py"))


def before_program(tokens: Sequence[str]) -> list[str]:
    """Return the words of a command line up to the program that it starts."""
    ends = (number for number, word in enumerate(tokens) if begins_program(word))
    return list(tokens[: next(ends, None)])


def before_mark(tokens: Sequence[str]) -> list[str]:
    """Return the words of a command line up to ``--``."""
    return list(tokens[: tokens.index("--")] if "--" in tokens else tokens)


def split_tokens(
    tokens: Sequence[str], value_flags: set[str]
) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Split words into the launcher's flags, the spec's overrides, and a program with arguments.

    Args:
        tokens: The words of the command line behind the verb.
        value_flags: The launcher's flags that take a value, which may be a word of any form.
    """
    own: list[str] = []
    overrides: list[tuple[str, str]] = []
    rest = list(tokens)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if begins_program(word):
            return own, overrides, rest if word == "--" else [word, *rest]
        if not word.startswith("-") and word.endswith((".yaml", ".yml")):
            own += ["--config", word]
        elif flag.startswith("--") and ("." in flag or flag[2:].rstrip("+") in SECTIONS):
            if not equals and (not rest or rest[0].startswith("--")):
                raise UsageError(f"{flag} needs a value.", f"{flag}=VALUE")
            overrides.append((flag[2:], value if equals else rest.pop(0)))
        elif word == RESUME_ARGS and rest:
            own.append(f"{word}={rest.pop(0)}")  # argparse takes "--resume=true" for a flag
        else:
            refuse_cut_value(tokens[: len(tokens) - len(rest) - 1], word, rest)
            own.append(word)
            if word in value_flags and rest:
                own.append(rest.pop(0))
    return own, overrides, []
