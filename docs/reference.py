"""The two references of the site, made of the command line's parsers and of docstrings."""

import argparse
import contextlib
import importlib
import os
import re
from unittest import mock

from getiaction_launch.cli.main import VERBS, main
from getiaction_launch.cli.parser import Parser

PACKAGES = (
    "getiaction_launch",
    "getiaction.train",
    "getiaction.policies",
    "getiaction.data",
    "getiaction.demo",
)
_FREE = ("options", "positional arguments")  # argparse's own titles of groups
_CODE = re.compile(r"(`[^`]*`|(?<![\w-])--?[a-z][\w-]*)")  # in a help text: what is typed


def commands() -> str:
    """Describe every command with its flags, in Markdown."""
    launching = _parser_of([])
    parts = [_command(launching, set())]
    parts += [_command(_parser_of([verb]), _flags(launching)) for verb in VERBS]
    return "\n".join(parts)


def _parser_of(words: list[str]) -> Parser:
    """Return the parser that prints the help of a command."""
    seen: list[Parser] = []
    with (
        mock.patch.object(Parser, "show_help", lambda parser, *_, **__: seen.append(parser)),
        contextlib.suppress(SystemExit),
    ):
        main([*words, "--help"])
    (parser,) = seen
    for complete in parser.describe:
        complete()
    return parser


def _groups(parser: Parser) -> list[tuple[str, list[argparse.Action]]]:
    """Return what a help shows, without itself."""
    groups = parser._action_groups  # noqa: SLF001 - argparse has no public list
    shown = [(group.title or "", group._group_actions) for group in groups]  # noqa: SLF001
    return [
        (title, [a for a in actions if a.help != argparse.SUPPRESS and a.dest != "help"])
        for title, actions in shown
    ]


def _flags(parser: Parser) -> set[tuple[str | None, ...]]:
    """Return the flags of the groups that have a title of ours, with their help."""
    groups = _groups(parser)
    return {_key(action) for title, group in groups if title not in _FREE for action in group}


def _key(action: argparse.Action) -> tuple[str | None, ...]:
    return (*action.option_strings, action.help)


def _command(parser: Parser, known: set[tuple[str | None, ...]]) -> str:
    """Describe one command, without flags that another section describes."""
    what, _, examples = (parser.description or "").partition("\n\n")
    with mock.patch.dict(os.environ, COLUMNS="88"):
        usage = re.sub(r"(?m)^(usage: | {7})", "", parser.format_usage()).strip()
    lines = [f"\n## {parser.prog}\n", _marked(what), f"\n```text\n{usage}\n```\n"]
    if typed := re.sub(r"(?m)^  ", "", examples).strip():
        lines += [f"For example:\n\n```bash\n{typed}\n```\n"]
    is_shortened = False
    for title, actions in _groups(parser):
        own = [action for action in actions if title in _FREE or _key(action) not in known]
        is_shortened |= len(own) < len(actions)
        if own and title not in _FREE:
            lines += [f"\n**{title}**\n"]
        lines += [_flag(parser, action) for action in own]
    if is_shortened:
        lines += ["\nIt also takes the flags of [getiaction-launch](#getiaction-launch).\n"]
    return "\n".join(lines)


def _flag(parser: Parser, action: argparse.Action) -> str:
    """Describe one flag or argument."""
    choices = "|".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper())
    names = ", ".join(action.option_strings)
    typed = f"{names} {value}" if action.nargs != 0 else names
    help_ = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"`{typed.strip()}`\n: {_marked(help_)}\n"


def _marked(text: str) -> str:
    """Return Markdown for a help text, in which flags and what is in backticks are code."""
    prose, code = slice(0, None, 2), slice(1, None, 2)
    pieces = _CODE.split(" ".join(text.split()))
    pieces[prose] = [re.sub(r"([\\*_<>\[\]$|])", r"\\\1", piece) for piece in pieces[prose]]
    pieces[code] = [f"`{piece.strip('`')}`" for piece in pieces[code]]
    return "".join(pieces)


def python_names() -> str:
    """Describe every public name of the packages, in Markdown with directives of autodoc."""
    parts: list[str] = []
    seen: list[object] = []  # a name may have been moved, and be found at its former place too
    for package in reversed(PACKAGES):
        module = importlib.import_module(package)
        public = {name: getattr(module, name) for name in module.__all__}
        own = {name: value for name, value in public.items() if value not in seen}
        seen += own.values()
        texts = [f"\n## {package}\n"]
        for name, value in own.items():
            kind, members = ("class", ":members:") if isinstance(value, type) else ("function", "")
            directive = f".. auto{kind}:: {package}.{name}\n   {members}\n"
            texts += [f"```{{eval-rst}}\n{directive}```\n"]
        parts = texts + parts
    return "\n".join(parts)
