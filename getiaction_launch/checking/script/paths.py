"""Paths in a script that only a shell would expand, given to what takes them literally."""

import ast
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.rules.paths import IS_PATH, takes_literally
from getiaction_launch.checking.source.source import Source
from getiaction_launch.storage.variables import variable_in

_OPENS = {
    **dict.fromkeys(("open", "io.open", "torch.load", "numpy.load", "numpy.save"), 0),
    **dict.fromkeys(("os.makedirs", "os.mkdir", "os.listdir", "numpy.savez"), 0),
    "torch.save": 1,
}
"""Functions that expand nothing in a path, and where it stands among their arguments."""


def check_paths_of_script(source: Source, working_directory: str) -> Iterator[Finding]:
    """Find each ``~`` or ``$VARIABLE`` that Python would look for as a directory of that name.

    Args:
        source: The script, as it was read.
        working_directory: The directory in which it is run.
    """
    for node in ast.walk(source.tree):
        for called, argument in _given(node, source):
            path = _beginning(argument, source)
            odd = "~" if path.startswith("~/") else variable_in(path)
            is_first = odd and path.startswith(odd)
            if not is_first or Path(working_directory, path.partition("/")[0]).exists():
                continue
            name = "expanduser" if odd == "~" else "expandvars"
            what = f"{source.name}:{argument.lineno}: {called} takes {path!r} literally: nothing "
            what += f"expands {odd} there, so it would be a directory of that name."
            fix = f"Expand it: os.path.{name}({ast.unparse(argument)})"
            yield source.judged(refusal("script", path, what, fix), node)


def _given(node: ast.AST, source: Source) -> Iterator[tuple[str, ast.expr]]:
    """Yield the paths that a call takes as they are written, each with what is called."""
    if not isinstance(node, ast.Call):
        return
    called = source.called(node)
    if opened := source.argument(node, _OPENS):
        yield called, opened
    if takes_literally(called):
        for word in node.keywords:
            is_home = _beginning(word.value, source).startswith("~")  # which most of them expand
            if IS_PATH.search(word.arg or "") and not is_home:
                yield f"{called.rpartition('.')[2]}({word.arg}=...)", word.value


def _beginning(path: ast.expr, source: Source) -> str:
    """Return what is known of a path: a literal, or that with which a formatted text begins."""
    path = source.constants.expression_of(path)
    if isinstance(path, ast.JoinedStr) and path.values:
        path = path.values[0]
    value = source.constants.value_of(path)
    return value if isinstance(value, str) else ""
