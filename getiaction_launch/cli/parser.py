"""Parses a command, and prints its help: with ``-h`` what most people need, with ``--help`` all."""

import argparse
import copy
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from getiaction_launch.errors import UsageError, nearest_first
from getiaction_launch.plan.program import refuse_notebook

HELP_COLUMN = 28
_ASK = "--ask-for-the-parser"
_OF_FLAG = re.compile(r"argument (?:-\w/)?(?P<flag>--?[\w-]+)(?:/--\w+)?: (?P<what>.+)")


class Parser(argparse.ArgumentParser):
    """One that raises UsageError, with the flags that were perhaps meant.

    Args:
        prog: The command that it parses, up to the verb.
        about: What the command does, then examples, as a docstring has it.
        usage: How the command is typed; derived from the arguments if not given.
        epilog: What to say at the end of the whole help.
        short_epilog: What to say at the end of the short help instead.
    """

    def __init__(
        self,
        prog: str,
        about: str | None,
        usage: str | None = None,
        epilog: str | None = None,
        short_epilog: str | None = None,
    ) -> None:
        what, _, examples = inspect.cleandoc(about or "").partition("\n\n")
        super().__init__(
            prog=prog,
            usage=usage,
            description=f"{what}\n\n{textwrap.indent(examples, '  ')}",
            epilog=epilog,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.common: list[argparse.Action] = []
        self.describe: list[Callable[[], None]] = []
        """What completes the help of arguments, once it is asked for: that takes time."""
        self.also_valid: list[str] = []
        """Flags that are valid too, although another parser reads them; named in errors."""
        self._short_epilog = short_epilog
        more = "Show this help; -h shows the most common flags only" if short_epilog else None
        self.add_argument("-h", "--help", action=_Help, help=more or "Show this help")

    @classmethod
    def of(cls, verb: Callable[..., int]) -> "Parser":
        """A parser for the verb of that function, which its docstring explains."""
        return cls(f"getiaction-launch {verb.__name__}", verb.__doc__)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        found = _OF_FLAG.fullmatch(message)
        actions = self._option_string_actions
        if found and (action := actions.get(found["flag"])):
            words = "a value is missing" if "expected one" in found["what"] else found["what"]
            if action.nargs == 0:
                raise UsageError(f"{found['flag']} takes no value.", f"Write only {found['flag']}")
            value = 2 if action.metavar == "N" else action.metavar
            raise UsageError(
                f"{found['flag']}: {words}.",
                f"For example: {found['flag']} {value}   (see {self.prog} --help)",
            )
        raise UsageError(f"{message}.", f"See {self.prog} --help")

    @property
    def flags(self) -> set[str]:
        """All flags."""
        return set(self._option_string_actions)

    @property
    def value_flags(self) -> set[str]:
        """The flags that take a value."""
        options = self._option_string_actions.items()
        return {flag for flag, action in options if action.nargs != 0}

    def parse(self, tokens: Sequence[str]) -> argparse.Namespace:
        """Parse all of ``tokens``, or raise UsageError."""
        if list(tokens) == [_ASK]:
            raise _Answer(self)
        arguments, unknown = self.parse_known_args(tokens)
        refuse_notebook(unknown[0] if unknown else "", self.prog)
        if unknown and not unknown[0].startswith("-"):
            raise UsageError(
                f"unknown argument {unknown[0]!r}.",
                "A verb is the first word, a script's name ends in .py, a spec's in .yaml, and a "
                "command of this environment stands behind --: -- lerobot-train --steps=10. "
                f"See {self.prog} --help",
            )
        if unknown:
            actions = [action for action in self._actions if action.help != argparse.SUPPRESS]
            flags = [flag for action in actions for flag in action.option_strings]
            near = nearest_first(unknown[0].partition("=")[0], [*flags, *self.also_valid])
            raise UsageError(
                f"unknown argument {unknown[0]!r}.", f"{near} All flags: {self.prog} --help"
            )
        for action in self._actions:
            value = getattr(arguments, action.dest, None)
            if value == "" or (isinstance(value, list) and "" in value):
                name = max(action.option_strings, key=len, default=action.metavar)
                raise UsageError(
                    f"{name}: the value is empty.", f"Leave out {name}, or set its shell variable."
                )
        return arguments

    def show_help(self, file: TextIO, *, short: bool = False) -> None:
        """Print the help: in colours on a terminal, as plain text elsewhere.

        Args:
            file: The stream to print to.
            short: Whether to show only what most people need, where there is so much.
        """
        for complete in self.describe:
            complete()
        formatter = _rich_formatter(self.prog, file)
        if short and self._short_epilog:
            formatter.add_usage(self.usage, self._actions, [])
            formatter.add_text(self.description)
            formatter.start_section(None)
            formatter.add_arguments(map(_shortened, self.common))
            formatter.end_section()
            formatter.add_text(self._short_epilog)
            print(formatter.format_help(), end="", file=file)
        else:
            self.formatter_class = lambda prog: formatter  # noqa: ARG005 - argparse's own
            print(self.format_help(), end="", file=file)


class _Answer(BaseException):
    """Has the parser that was asked for; nothing may catch it on its way."""


def parser_of(verb: Callable[[Sequence[str]], int]) -> Parser:
    """Return the parser of a verb, which builds it when it is called, without running the verb."""
    try:
        verb([_ASK])
    except _Answer as answer:
        (parser,) = answer.args
    assert isinstance(parser, Parser)  # noqa: S101 - each verb parses its words first
    return parser


class _Help(argparse.Action):
    """``-h`` is short, ``--help`` is complete."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - argparse's own
        values: object,  # noqa: ARG002
        option_string: str | None = None,
    ) -> None:
        """Print the help and exit."""
        assert isinstance(parser, Parser)  # noqa: S101 - it is added there alone
        parser.show_help(sys.stdout, short=option_string == "-h")
        parser.exit()


def _rich_formatter(prog: str, file: TextIO) -> argparse.HelpFormatter:
    from rich.console import Console
    from rich_argparse import RawDescriptionRichHelpFormatter

    class Formatter(RawDescriptionRichHelpFormatter):
        group_name_formatter = str  # names are written as their owners write them
        help_markup = False
        text_markup = False

    return Formatter(prog, max_help_position=HELP_COLUMN, console=Console(file=file))


def _shortened(action: argparse.Action) -> argparse.Action:
    short = copy.copy(action)
    short.help = (action.help or "").partition(";")[0].partition(" [env")[0]
    return short
