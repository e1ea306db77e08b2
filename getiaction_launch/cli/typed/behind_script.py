"""Flags of the launcher that were typed behind a program, which would get them as its own.

A run would start that was meant to be a dry run, or on one node instead of two. So these flags are
refused, unless a ``--`` says that what follows is the program's.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.flag import settings_of
from getiaction_launch.cli.parser import Parser
from getiaction_launch.errors import SpecError, UsageError
from getiaction_launch.plan.program import find_module

_NEVER_MEANT = {"--config", "--debug"}  # a script has no spec, and --debug changes no run
_HELP = {"-h", "--help"}


def own_words(parser: Parser, tokens: Sequence[str], script: Sequence[str]) -> list[str]:
    """Return a program and its arguments, without a ``--`` directly behind its name.

    Some flags, such as ``--name`` or ``-t``, are also flags of many programs. A program gets these
    if its source contains them as text in quotes.

    Args:
        parser: The parser of the launcher's flags.
        tokens: The words behind the verb, of which ``script`` are the last ones.
        script: The path of the script, or ``-m`` and the module, and the words behind it.

    Raises:
        UsageError: If one of these words is a flag of the launcher.
    """
    head = list(tokens[: len(tokens) - len(script)])
    if not script or head[-1:] == ["--"]:
        return list(script)
    is_module = script[0] == "-m"
    named = [*script[: 1 + is_module]]
    rest = [*script[1 + is_module :]]
    end = rest.index("--") if "--" in rest else len(rest)
    meant = parser.flags - _NEVER_MEANT - _flags_of(named)
    moved: list[list[str]] = []
    kept, words = [], list(rest[:end])
    while words:
        word = words.pop(0)
        flag, is_whole = _flag_of(word, meant)
        if flag is None:
            kept.append(word)
        elif word == "-c" and words and not words[0].isdecimal():  # of LightningCLI: a spec
            kept += [word, words.pop(0)]
        elif is_whole and flag in parser.value_flags and words:
            moved.append([word, words.pop(0)])
        else:
            moved.append([word])
    if not moved:
        return [*named, *rest[1:]] if end == 0 and rest else list(script)
    raise UsageError(
        f"{', '.join(map(' '.join, moved))}: flags of getiaction-launch must stand before "
        f"{' '.join(named)}; behind it they are passed to the {_noun(named)}.",
        _fix([parser.prog, *head], moved, named, kept=[*kept, *rest[end:]], rest=rest),
    )


def _fix(
    head: Sequence[str],
    moved: Sequence[Sequence[str]],
    named: Sequence[str],
    *,
    kept: Sequence[str],
    rest: Sequence[str],
) -> str:
    prog, *typed = head
    own = shlex.join([*typed, *named, "--", *(word for word in rest if word != "--")])
    if any(words[0] in _HELP for words in moved):
        return f"{prog} --help   or   python {shlex.join(named)} --help"
    flags = [word for words in moved for word in words]
    command = shlex.join([*typed, *flags, *named, *kept])
    return f"{prog} {command}\nIf it is the {_noun(named)}'s own flag: {prog} {own}"


def _noun(named: Sequence[str]) -> str:
    return "module" if named[0] == "-m" else "script"


def _flag_of(word: str, flags: set[str]) -> tuple[str | None, bool]:
    """Return the flag that a word is or begins with, and whether the word is nothing but that."""
    if word in flags:
        return word, True
    flag, equals, value = word.partition("=")
    if not word.startswith("--"):  # -N2, but not -data
        flag, value = word[:2], word[2:]
        return (flag if flag in flags and value.lstrip("=").isdecimal() else None), False
    return (flag if equals and flag in flags else None), False


def _flags_of(named: Sequence[str]) -> set[str]:
    """Return the flags that many programs have, and that this one names in its source."""
    try:
        is_module = named[0] == "-m"
        path = find_module(named[1], str(Path.cwd())) if is_module else Path(named[0])
        source = path.read_text(encoding="utf-8", errors="replace") if path else ""
    except (OSError, IndexError, SpecError):
        return set()  # the program is missing, which is said later
    settings = [setting for owner in shipped_settings().values() for setting in settings_of(owner)]
    names = {"--name", "--json", *(name for setting in settings for name in setting.flag.names)}
    return {name for name in names if f'"{name}"' in source or f"'{name}'" in source}
