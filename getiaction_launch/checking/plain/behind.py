"""Errors behind the loop of a program that do not come of the epochs that a trial cuts short.

Most may do so: too few losses to average, a metric that has not got better, an iterator at its end.
What no number of batches changes is the names and the types of what a program saves and loads.
"""

import ast
import contextlib
import functools
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from getiaction_launch.checking.finding import Finding
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.replacing import replacing
from getiaction_launch.checking.source.source import Source

LOADS_WEIGHTS = "loading state_dict"
_ADVICE = re.compile(r" This file can still be loaded| In PyTorch 2\.6, we changed")
"""How torch begins to say at length what could be done about a file that is not plain."""
_GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")
_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: (.*)")
_QUOTED = re.compile(r'"([^"]+)"')
_STAND_IN = "not the same object"
"""What cannot be pickled because a trial has replaced it."""
_TYPES = {
    re.compile(r"is not JSON serializable|keys must be str, int|cannot represent an object"): (
        "Convert it first: value.item() for one number of torch or NumPy, value.tolist() for "
        "several, str(path), vars(args)"
    ),
    re.compile(r"Can't call numpy\(\) on Tensor that requires grad"): (
        "Keep loss.item(), or loss.detach() in place of loss"
    ),
    re.compile(r"can(?:'|no)t pickle", re.IGNORECASE): (
        "Save plain values and state dicts: {'model': model.state_dict(), 'args': vars(args)}"
    ),
}
"""What cannot be written for its type alone, and how it can."""


class Behind:
    """Judges what a program raises once it has trained enough.

    Args:
        source: The program, as it was read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begun = time.time()
        self._is_old = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch in the context which files torch loads."""
        import torch

        load: Callable[..., Any] = torch.load

        @functools.wraps(load)
        def loading(f: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as torch has it
            self._is_old = isinstance(f, str | os.PathLike) and _is_older(f, self._begun)
            return load(f, *arguments, **options)

        with replacing(torch, load=loading):
            yield

    def refusal_of(self, error: BaseException, found: Finding) -> Finding | None:
        """Return the refusal of what fails in whole epochs, too; None if that is not sure.

        A file that is older than the trial may be another one by then.

        Args:
            error: What the program has raised.
            found: What that stands for before the loop.
        """
        said = str(error)
        if (_GLOBAL.search(said) or _prefix(said)) and not self._is_old:
            return replace(found, evidence=told(error, found.evidence), fix=fix_of_load(error))
        fixes = (fix for pattern, fix in _TYPES.items() if pattern.search(said))
        fix = next(fixes, "") if _STAND_IN not in said else ""
        if fix or isinstance(error, ImportError) or self._is_bound_nowhere(error):
            return replace(found, fix=fix or found.fix)
        return None

    def _is_bound_nowhere(self, error: BaseException) -> bool:
        """Whether a name is missing that the program gives to nothing, in no branch."""
        own, tree = own_frames(error), self._source.tree
        if type(error) is not NameError or not own or Path(own[-1].filename) != self._source.path:
            return False
        names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
        bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        bound |= {
            str(getattr(node, "asname", None) or getattr(node, "name", None))
            for node in ast.walk(tree)
        }
        return error.name not in bound and not re.search(r"\bexec\(|globals\(", self._source.text)


def fix_of_load(error: BaseException) -> str:
    """Return what to do about a file that torch does not load; empty if that is not clear.

    Args:
        error: What loading it has raised.
    """
    if isinstance(error, pickle.PickleError):
        named = _GLOBAL.search(str(error))
        what = f"It holds {named[1]}. " if named else ""
        return (
            f"{what}Load what you trust with torch.load(path, weights_only=False), or save plain "
            "values beside the weights, such as vars(args)"
        )
    prefix, is_missing = _prefix(str(error)) or ("", False)
    inside = {"module.": "model.module", "_orig_mod.": "model._orig_mod"}.get(prefix)
    if inside and is_missing:
        return f"Load them into the model inside of the wrapper: {inside}.load_state_dict(...)"
    if inside:
        return f"Save the weights of the model inside of the wrapper: {inside}.state_dict()"
    if prefix and is_missing:
        return f"Add the prefix: {{'{prefix}' + name: value for name, value in state.items()}}"
    if prefix:
        return (
            f"Take the prefix off: {{name.removeprefix('{prefix}'): value for name, value in "
            "state.items()}"
        )
    return ""


def told(error: BaseException, evidence: str) -> str:
    """Return evidence with what is wrong with the names, and without long advice of torch.

    Args:
        error: What loading a file has raised.
        evidence: What was seen of it.
    """
    evidence = _ADVICE.split(evidence, maxsplit=1)[0]
    if (found := _prefix(str(error))) is None:
        return evidence
    prefix, is_missing = found
    owner = "the model's names" if is_missing else "the names of what it loads"
    return f"{evidence} Only {owner} begin with {prefix!r}."


def _prefix(said: str) -> tuple[str, bool] | None:
    """Return what all names of a side begin with, and whether that is the model's."""
    if LOADS_WEIGHTS not in said:
        return None
    keys = {kind: set(_QUOTED.findall(names)) for kind, names in _KEYS.findall(said)}
    missing, unexpected = keys.get("Missing", set()), keys.get("Unexpected", set())
    longer, shorter = sorted((missing, unexpected), key=lambda names: -sum(map(len, names)))
    if not shorter or "size mismatch" in said:
        return None
    first = min(shorter, key=len)
    for name in longer:
        prefix = name.removesuffix(first)
        if prefix != name and longer == {prefix + each for each in shorter}:
            return prefix, longer is missing
    return None


def _is_older(path: str | os.PathLike[str], moment: float) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(path).stat().st_mtime < moment
    return False
