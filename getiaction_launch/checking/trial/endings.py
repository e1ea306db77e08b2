"""How a script has ended before its first fit, as a finding: an exception, or an exit."""

import contextlib
import os
import re
import traceback
from pathlib import Path

from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.blame import (
    package_of,
    reason_elsewhere,
    untried,
    words_of,
)
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, refusal, unknown
from getiaction_launch.checking.former import fix_of_argument
from getiaction_launch.checking.frames import chain_of, own_frames
from getiaction_launch.checking.known import known_error
from getiaction_launch.checking.parsers.scripts import refusal_of_parser
from getiaction_launch.checking.script.files import fix_of_file

_PARSERS = ("/argparse.py", "/jsonargparse/", "/click/", "/typer/", "/absl/flags/", "/fire/")
_SURE = (ImportError, SyntaxError, NameError, TypeError, EOFError)
"""What does not come of a file that a check does not write, nor of a network that it has not."""
_KEYWORD = re.compile(r"unexpected keyword argument '(\w+)'")
_NO_GROUP = "process group has not been initialized"
_NOT_A_MODEL = "`model` must be a `LightningModule`"
_PACKAGE = re.compile(r"\bpytorch_lightning\b|\blightning\.pytorch\b")
"""The two names under which Lightning is installed, each with classes of its own."""
_LONGEST, _LONGEST_LINE = 300, 80


def ending_of(error: BaseException, script: str, said: str, place: Place) -> Finding:
    """Return what the end of a script stands for that has not come to a fit.

    Args:
        error: What has ended it.
        script: Path of the script.
        said: What it has written to stderr.
        place: Where the run would be started.
    """
    if isinstance(error, SystemExit):
        return _of_exit(error, script, said, place)
    chain = chain_of(error)
    at = _location(error, script)
    is_certain = _NO_GROUP in str(error)  # nor will there be one before a fit
    if why := untried(error, chain, "the script", is_certain=is_certain):
        return unknown("training", why)
    if wishes and not isinstance(error, _SURE):
        why = f"a check does not {wishes[0]}; the script then failed at {at}"
        return unknown("training", f"{why}: {type(error).__name__}: {error}"[:_LONGEST])
    what, fix = words_of(error)
    package = package_of(chain[0], f"{what} {fix}")
    why = reason_elsewhere(chain, at, None, package, place)
    if isinstance(error, FileExistsError) and place.settings.get("working_dir"):
        why = f"{at}: {what} Each node may have a directory of its own"
    if why:
        return unknown("training", why)
    if _is_of_variable(error) and place.has_queue:
        return unknown("training", f"{at}: the variable {error} is not set here")
    what, fix = _explained(error, what, fix, package, script)
    line = "".join(frame.line or "" for frame in own_frames(error)[-1:])
    shown = f"{at} ({line[:_LONGEST_LINE]})" if line else at
    return refusal("training", at, f"{shown}: {what}", fix or _advice(at))


def _explained(
    error: BaseException, what: str, fix: str, package: str | None, script: str
) -> tuple[str, str]:
    """Return what is wrong and its fix, in better words than an exception has, if there are any."""
    if isinstance(error, EOFError):
        return "it reads from the terminal, but a worker has none.", "Read it from arguments"
    if file_fix := fix_of_file(error):
        return what, file_fix
    if _is_of_variable(error):
        return f"the environment variable {error} is not set.", f"export {error.args[0]}=..."
    if package and isinstance(error, ModuleNotFoundError):
        if (beside := _beside(package, script)) is not None:
            what = f"No module named {package!r}, which is {beside}."
            return what, f"Have Python look there: export PYTHONPATH={beside.parent}"
        what = f"{what.rstrip('.')}: the package {package!r} is not installed here."
        return what, f"Install it where the workers run: pip install {package}"
    if _NO_GROUP in what:
        fix = "Lightning makes it where a fit begins: move this into train_dataloader"
    elif _NOT_A_MODEL in what:
        fix = _fix_of_model(error)
    elif known := known_error(error, what, {}):
        fix = fix or known[1]
    elif found := _KEYWORD.search(what):
        fix = fix or fix_of_argument(found[1]) or ""
    return what, fix


def _of_exit(error: SystemExit, script: str, said: str, place: Place) -> Finding:
    name, code = Path(script).name, error.code
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code in (None, 0):
        if wishes:
            return unknown("training", f"a check does not {wishes[0]}; the script then ended")
        return doubt(
            "training",
            name,
            f"{name} ends without Trainer.fit: the run would succeed at once.",
            "Call what trains, below: if __name__ == '__main__':",
        )
    shown = code if isinstance(code, str) else (lines or [f"exit code {code}"])[-1]
    at = _location(error, script)
    what = f"{name}: it ends with: {shown[:_LONGEST]}"
    if is_of_parser(error) and not any(wish.startswith("start") for wish in wishes):
        if found := refusal_of_parser(said, script):
            return found
        return refusal("training", name, what, f"See what it takes: python {script} --help")
    if wishes or place.has_queue:
        return doubt("training", at, what, f"It was at {at}")
    return refusal("training", at, what, f"It was at {at}")


def is_of_parser(error: BaseException) -> bool:
    """Whether a parser of arguments has ended a script.

    Args:
        error: What has ended it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    names = [frame.filename for frame in frames]
    return isinstance(error, SystemExit) and any(
        part in name for name in names for part in _PARSERS
    )


def _location(error: BaseException, script: str) -> str:
    """Return file and line of the user's own code that has raised an exception."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    own = own_frames(error)
    return f"{_short(own[-1].filename)}:{own[-1].lineno}" if own else Path(script).name


def _short(file: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(file).resolve().relative_to(Path.cwd()))
    return file


def _fix_of_model(error: BaseException) -> str:
    """Return why what was given to ``Trainer.fit`` as its model is none for this Trainer."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    given = [frame.f_locals["model"] for frame in frames if "model" in frame.f_locals]
    bases = " ".join(kind.__module__ for kind in type(given[-1] if given else None).__mro__)
    own = _PACKAGE.search(frames[-1].f_code.co_filename.replace("/", "."))
    other = _PACKAGE.search(bases)
    if own and other and own[0] != other[0]:
        return (
            f"The Trainer is of {own[0]}, and the model's class of {other[0]}: import both from "
            "one of them, as in: from lightning.pytorch import LightningModule, Trainer"
        )
    return "The model comes first: trainer.fit(model, data)"


def _is_of_variable(error: BaseException) -> bool:
    if not isinstance(error, KeyError) or not error.args:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename in (os.__file__, "<frozen os>")


def _beside(package: str, script: str) -> Path | None:
    """Return a module of the user's own that lies above the script's directory."""
    for folder in Path(script).resolve().parents[1:3]:
        for place in (folder / package, folder / f"{package}.py"):
            if place.exists() and folder != Path("/"):
                return place
    return None


def _advice(at: str) -> str:
    return f"Correct it at {at}, or see it fail: run the script on this machine"
