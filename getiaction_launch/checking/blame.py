"""Which of a user's keys an exception is about, and what to do about it."""

import bdb
import contextlib
import inspect
import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

from getiaction_launch.checking.apart.sandbox import wish_of
from getiaction_launch.checking.built import Place, is_elsewhere, keys_of_classes, values_of
from getiaction_launch.checking.classes.lacking import of_lacking_part
from getiaction_launch.checking.collating import is_of_loading
from getiaction_launch.checking.finding import Finding, doubt, refusal, unknown
from getiaction_launch.checking.frames import chain_of, is_own, own_frames
from getiaction_launch.checking.known import NO_MODULE, is_of_lightning, known_error
from getiaction_launch.checking.script.files import fix_of_file
from getiaction_launch.errors import LaunchError
from getiaction_launch.storage.variables import typed, variable_in

_PIP = re.compile(r"pip install (?:-\w+ )*['\"`]?([\w-]+)|^`?([\w-]+)`? is not installed")
_UNLOGGED = re.compile(r"ReduceLROnPlateau conditioned on metric (\S+) which is not available")
_NEEDS_GPU = re.compile(r"not compiled with CUDA|no NVIDIA (driver|GPU)|CUDA GPUs are available")
"""What torch says where there is no GPU."""
_NOISE = "- Not a valid subclass"
"""How a parser begins what it has tried besides the class that a user has named."""
_OF_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':\s*(.+)")
"""What a parser says of the class that a user has named, among much else."""
_ALIASES = {"learning rate": ("lr", "learning_rate", "optimizer_lr")}
"""Words of torch's messages, and the arguments that they are about."""
_OF_THIS_MACHINE = re.compile(
    r"cuda|nvidia|nvml|nccl|rocm|triton|flash.?att|\bgpus?\b|process group|device_mesh|"
    r"can't allocate|cannot allocate|not implemented for|'cpu' backend|"
    r"must have the same dtype.*(half|bfloat16)|expected .*\bdevice\b|wandb\.init|slurm_|"
    r"a check may not|start new thread|too many open files|no space left|cross-device|"
    r"value too large for defined|input/output error|failed writing file",
    re.IGNORECASE,
)
"""Words of errors that come of a trial on the CPU, in one process, within this machine's limits.

The last ones are those of a layer over a directory, in which no other one can be moved."""
STAND_IN = re.compile(r"\b_Nothing\b|\b(trial_trainer|_quiet_logger)\.<locals>")
"""What stands in for the Trainer, the logger and its experiment in a trial."""
_OF_RANKS = re.compile(
    r"shape|size|dimension|mat1|expected|out of (range|bounds)|no attribute|require grad|"
    r"second time|scalar outputs|unsigned char|byte|dataloader_idx|non-empty|must return a tensor"
)
_OF_CALLBACKS = re.compile(
    r"\b(best_(model|k_model|score)|last_model_path|kth_)|"
    r"\b(checkpoint|early_stopping|progress_bar)_callback|"
    r"\b(ModelCheckpoint|EarlyStopping|Timer|\w*ProgressBar)\b"
)
"""What the source of a function has that reads what callbacks keep which a trial leaves out."""
_PLAIN = (
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    NameError,
    ImportError,
    NotImplementedError,
    ValueError,
    OSError,
)
"""Errors of a step that come of the program and its data, wherever it runs."""
_ABSOLUTE = re.compile(r"(?<![\w/.])/[\w./+-]+")
_EXAMPLES = {
    "trainer.strategy": "ddp",
    "trainer.accelerator": "gpu",
    "trainer.precision": "bf16-mixed",
    "trainer.devices": "1",
    "trainer.profiler": "simple",
    "trainer.gradient_clip_algorithm": "norm",
    "trainer.val_check_interval": "1.0",
    "trainer.limit_train_batches": "1.0",
    "trainer.limit_val_batches": "1.0",
}
_SIZES = re.compile(r"[(\[][\dx, ]+[)\]]")
_LIBRARIES = ("/site-packages/torch/", "/site-packages/lightning/", "/site-packages/jsonargparse/")
_COMMON = ("0", "1", "None", "True", "False", "", "auto")
"""Values that stand for nothing in a message."""
_LONGEST = 300
_SHORTEST = 4


def blame(
    error: BaseException,
    check: str,
    spec: Mapping[str, Any],
    default_key: str,
    place: Place,
    *,
    is_of_trainer: bool = False,
) -> Finding:
    """Return the finding that an exception stands for, which a trial of a spec has raised.

    Args:
        error: The exception that a trial has raised.
        check: Name of the check that has raised it.
        spec: The spec as its parser understands it.
        default_key: The key that is at fault if nothing better is found.
        place: Where the run would be started, which may have other packages and files.
        is_of_trainer: Whether building the Trainer has raised it, for which there are stand-ins
            for the cluster's devices.
    """
    chain = chain_of(error)
    if found := of_lacking_part(chain[-1]):
        return refusal(check, *found)
    what, fix = words_of(error)
    on_cpu = place.lacks_gpus or (spec.get("trainer") or {}).get("accelerator") == "cpu"
    is_certain = is_of_trainer or (on_cpu and bool(_NEEDS_GPU.search(str(chain[-1]))))
    if why := untried(error, chain, default_key, is_certain=is_certain):
        return unknown(check, why)
    is_loading = any(map(is_of_loading, chain))
    default_key = "data" if is_loading else default_key
    owner = next(filter(None, (_owner(each, spec) for each in chain)), default_key)
    if known := _of_known(check, what, owner, spec, chain[-1]):
        return known
    # A number that reading a sample has raised is an index or a size, and of no key.
    key, value = _mentioned(f"{what} {fix}", owner, spec, has_numbers=not is_loading)
    package = package_of(chain[0], f"{what} {fix}")
    lacking = package if package != "torch" else None
    if why := reason_elsewhere(chain, key, value, lacking, place):
        return unknown(check, why)
    if lacking:
        what = f"{key} needs the package {lacking!r}, which is not installed here."
        fix = f"Install it where the workers run: pip install {lacking}"
    elif isinstance(value, str) and variable_in(value):
        given = f'--{key}="{typed(value)}"'
        fix = f"A spec has no variables of the shell; the command line has: {given}"
    shown = f"{key}={value!r}" if value is not None else key
    if not what.startswith(key):
        what = f"{shown}: {what}"
    fix = fix or _fix(key, chain[0])
    if check == "step" and not lacking and not _is_of_program(chain):
        return doubt(check, key, f"{what} It was raised in a trial on one CPU.", fix)
    return refusal(check, key, what, fix)


def _of_known(
    check: str, what: str, owner: str, spec: Mapping[str, Any], error: BaseException
) -> Finding | None:
    """Return the finding of an error that is recognised by its words or its class."""
    if found := _UNLOGGED.search(what):
        key = "lr_scheduler" if spec.get("lr_scheduler") else "configure_optimizers"
        first, _, rest = what.partition(". ")
        fix = f"Have it monitor a metric that is logged. {rest.partition('. Condition')[0]}"
        return refusal(check, f"{key}.monitor", f"{key}.monitor={found[1]!r}: {first}.", fix)
    places = [f"{each.filename}:{each.lineno} ({each.line})" for each in own_frames(error)[-1:]]
    at = "".join(f" at {place}" for place in places)
    if isinstance(error, bdb.BdbQuit):
        what = f"{owner}: it stops at a breakpoint, but a worker has no terminal."
        return refusal(check, owner, what, f"Remove the breakpoint{at}")
    if _NEEDS_GPU.search(str(error)):
        fix = "Move tensors by .to(self.device), or train on GPUs: --gpus-per-node 1"
        return refusal(check, owner, f"{owner} needs a GPU{at}, and this run trains on CPUs.", fix)
    if known := known_error(error, what, values_of(spec)):
        classes = keys_of_classes(spec).items()
        named = (key for path, key in classes if f"{path.rpartition('.')[2]}." in what)
        key, fix = known[0] or next(named, owner), known[1] if known[0] else f"{known[1]}{at}"
        return refusal(check, key, f"{key}: {what}", fix)
    return None


def untried(
    error: BaseException, chain: list[BaseException], key: str, *, is_certain: bool = False
) -> str:
    """Return why an error says nothing about the run, which has other devices and other limits.

    Args:
        error: The exception that a trial has raised.
        chain: The exception and those that it was made of, the original one first.
        key: What has raised it, for a sentence.
        is_certain: Whether it would be raised wherever the run is.
    """
    if wish := wish_of(error):
        return f"a check does not {wish}, which {key} needs"
    if is_certain:
        return ""
    said = " ".join(f"{type(each).__name__}: {each}" for each in chain)
    if STAND_IN.search(said) or any(map(_reads_callbacks, chain)):
        what = f"{type(chain[-1]).__name__}: {chain[-1]}"[:_LONGEST]
        return f"{key} asks a logger or a callback for what only a run has: {what}"
    if "ermission denied" in said and not any(map(_is_unreadable, chain)):
        return f"a check does not write what {key} does: {str(chain[0]).strip()[:_LONGEST]}"
    if any(isinstance(each, MemoryError) for each in chain) or _OF_THIS_MACHINE.search(said):
        first = str(chain[-1]).strip().partition("\n")[0]
        shown = f"{type(chain[-1]).__name__}: {first}" if first else type(chain[-1]).__name__
        return f"{key} cannot be tried on this machine: {shown[:_LONGEST]}"
    return ""


def _reads_callbacks(error: BaseException) -> bool:
    """Whether a function of the user's own has failed that reads the best score, and the like."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if not is_own(code.co_filename) or code.co_name == "<module>":
            continue
        with contextlib.suppress(OSError, TypeError):
            if _OF_CALLBACKS.search(inspect.getsource(code)):
                return True
    return False


def _is_unreadable(error: BaseException) -> bool:
    """Whether a file is there that the user may not even read."""
    path = getattr(error, "filename", None)
    return isinstance(path, str) and os.path.exists(path) and not os.access(path, os.R_OK)  # noqa: PTH110


def _is_of_program(chain: list[BaseException]) -> bool:
    """Whether an error of a step will come on every machine, with any number of ranks."""
    last = chain[-1]
    is_known = isinstance(last, _PLAIN) or is_of_lightning(last)
    return is_known or bool(_OF_RANKS.search(str(last).lower()))


def reason_elsewhere(
    chain: list[BaseException], key: str, value: object, package: str | None, place: Place
) -> str:
    """Return why the workers may have what is lacking here; empty if they will not."""
    if package and (setting := place.other_environment):
        return f"{key}: {package} is not installed here; the workers may have it, by {setting}"
    if not place.has_queue:
        return ""
    said = [value] if isinstance(value, str) else []
    said += [path for each in chain for path in _ABSOLUTE.findall(str(each))]
    if path := next((path for path in said if is_elsewhere(path)), None):
        return f"{key}: {path} is not on this machine; the workers may have it"
    is_lost = any(isinstance(each, FileNotFoundError) for each in chain)
    if is_lost and (setting := place.other_environment):
        return f"{key}: a file is not on this machine; the workers may have it, by {setting}"
    return ""


def words_of(error: BaseException) -> tuple[str, str]:
    """Return what an exception says is wrong, and the fix that it names, if any."""
    text = f"{error.what}\n{error.fix}" if isinstance(error, LaunchError) else str(error).strip()
    if isinstance(error, LaunchError) and not error.what.endswith("':"):
        what, fix = error.what.removeprefix("- "), error.fix
    else:
        if found := _OF_CLASS.search(text):
            text = f"{found[1].rpartition('.')[2]}: {found[2]}"
        what, _, fix = text.partition("\n")
        what = what or "it gives no reason"
        if not isinstance(error, (ValueError, OSError, LaunchError)) or " " not in what:
            what = f"{type(error).__name__}: {what}"
    fix = fix.partition(_NOISE)[0]
    return what[:_LONGEST].strip().removeprefix("- "), " ".join(fix.split())[:_LONGEST].strip()


def _fix(key: str, error: BaseException) -> str:
    if key in _EXAMPLES:
        return f"For example: --{key}={_EXAMPLES[key]}"
    if fix := fix_of_file(error):
        return fix
    if "." in key and "[" not in key:
        return f"Leave it out, or give it another value: --{key}=VALUE"
    if not (own := own_frames(error)):
        is_needed = key in ("model", "data")
        return f"Change {key}'s class" if is_needed else f"Change {key}, or leave it out"
    line = f": {own[-1].line}" if own[-1].line else ""
    return f"It was raised at {own[-1].filename}:{own[-1].lineno}{line}"


def package_of(error: BaseException, said: str) -> str | None:
    """Return the package that an exception misses, if it is about one.

    Args:
        error: The exception that a trial has raised.
        said: The text of this exception.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    found = NO_MODULE.search(said) or _PIP.search(said)
    return next(filter(None, found.groups()), None) if found else None


def _owner(error: BaseException, spec: Mapping[str, Any]) -> str | None:
    """Return the key of the class of the spec that has raised an exception."""
    keys = keys_of_classes(spec)
    found: dict[bool, str] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        is_own = not any(library in frame.f_code.co_filename for library in _LIBRARIES)
        for kind in type(owner).__mro__[:-1] if owner is not None else ():
            if key := next((keys[path] for path in _paths(kind) if path in keys), None):
                found[is_own] = key
                break
    return found.get(True, found.get(False))


def _paths(kind: type) -> list[str]:
    """Return the paths by which a spec may name a class: also those of the packages above."""
    module = kind.__module__.split(".")
    return [".".join([*module[:end], kind.__qualname__]) for end in range(1, len(module) + 1)]


def _mentioned(
    text: str, owner: str, spec: Mapping[str, Any], *, has_numbers: bool
) -> tuple[str, object]:
    """Return the key below an owner that a text mentions, with its value."""
    if (named := re.match(r"([\w.]+)=", text)) and named[1] in (values := values_of(spec)):
        return named[1], values[named[1]]
    below = {
        key: value
        for key, value in values_of(spec).items()
        if key.startswith(f"{owner}.") and not key.endswith(".class_path")
    }
    by_name = []
    for key, value in below.items():
        name = key.rpartition(".")[2]
        if found := re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text):
            by_name.append((found.start(), -len(name), key, value))
    if by_name:
        return min(by_name, key=lambda found: found[:2])[2:]
    for words, names in _ALIASES.items():
        for key, value in below.items():
            if words in text and key.rpartition(".")[2] in names:
                return key, value
    tokens = set(re.findall(r"[^\s'\"`,;:()=\[\]]+", _SIZES.sub("", text)))
    by_value = [
        key
        for key, value in below.items()
        if _is_named(value, tokens, text) and (has_numbers or isinstance(value, str))
    ]
    return (by_value[0], below[by_value[0]]) if len(by_value) == 1 else (owner, None)


def _is_named(value: object, tokens: set[str], text: str) -> bool:
    """Whether a message has a value, also within a word: DeepSpeedStrategy for deepspeed."""
    shown = str(value)
    if shown in _COMMON or isinstance(value, (list, dict)):
        return False
    is_word = isinstance(value, str) and len(value) >= _SHORTEST
    within = is_word and shown.isalpha() and shown.lower() in text.lower()
    return within or shown in tokens or (is_word and os.path.normpath(shown) in tokens)
