"""What the parser of specs complains about, as a sentence with key, value and fix."""

import ast
import contextlib
import re
import shlex
import sys

from getiaction_launch.checking.finding import Finding, refusal, refusal_of
from getiaction_launch.checking.former import SUCCESSORS, fix_of_argument, fix_of_value
from getiaction_launch.checking.known import NO_MODULE
from getiaction_launch.errors import SpecError, nearest_first
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import read_trainer

_HELP = "See what each key takes: getiaction fit --help"
_UNKNOWN_KEY = re.compile(r"unknown key '(?:trainer\.)?(\w+)'")
_UNKNOWN_CLASS = re.compile(r"trainer\.(logger|callbacks|profiler|plugins)\b.*class '(.+)'")
_NOWHERE = re.compile(r"module '[\w.]+' has no attribute '\w+'|No module named '[\w.]+'")
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_PATH_OF_CLASS = re.compile(r"(?<=given class_path ')(\w+)[\w.]*")
_SECTION = re.compile(r"([\w.\[\]]+)(?::|=Namespace)")
_CLASS = re.compile(r"Problem with given class_path '[\w.]*?(\w+)'")
_INNER = re.compile(r"(\s*(?:- )?)([A-Za-z_][\w.]*):\s*")
_WITHIN = re.compile(r"Given value: (?:\[\{|\{'(?!class_path')\w+': \{')")
"""A list or a mapping of objects, of which no flag names one."""
_ELEMENT = re.compile(r"Got value: .*\n\s*Given value: (?:(?:\w+=)?(\[.*)|(\{(?!'class_path').*))")
"""One value of a list or of a mapping, and all of it."""
_PATH = re.compile(r"^\s*- Expected a path but .*\n", re.MULTILINE)
"""What a parser has tried before the class that is named."""
_ELEMENTS = re.compile(r"(?:tuple|list) with (\d+) elements")
_KIND = re.compile(r"Expected an? (.+?)(?:\. Got value.*)?\s*$", re.MULTILINE)
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_REQUIRED = re.compile(r"the following arguments are required: ([\w, ]+)")
_OTHER_KIND = re.compile(r"Import path(?: ([\w.]+))? does not correspond to a subclass of")
_OTHER = "pytorch_lightning"
_ARGUMENT = re.compile(r"[a-z_]\w*=\S+")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "NoneType": "null",
}


def refusal_of_parsing(error: SpecError, plan: Plan) -> Finding:
    """Return the refusal of a spec that does not parse.

    Args:
        error: What the parser says.
        plan: The plan of the run.
    """
    found = _of_former(error, plan) or _of_class(error)
    found = found or refusal_of_said(f"{error.what}\n{error.fix}")
    if found is None and "of lightning.Callback." in error.what:
        fix = "Name its class: --trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=NAME"
        found = refusal("spec", "trainer.callbacks", f"trainer.callbacks: {error.what}", fix)
    if found is None and "unknown key 'class_path'" in error.what:
        what = "a class has arguments beside its class_path, and takes them below init_args only."
        fix = "model: {class_path: package.Class, init_args: {chunk_size: 10}}"
        found = refusal("spec", "init_args", f"{error.what} That is, {what}", fix)
    if found is None and not error.fix:
        found = refusal("spec", "", error.what, _HELP)
    return found or refusal_of("spec", error)


def refusal_of_said(said: str) -> Finding | None:
    """Return the refusal of a value that a parser complains of; None if its words are not known.

    Args:
        said: What the parser says, the key first, without types that nobody has written.
    """
    section = _SECTION.match(said)
    if section is None:
        return None
    found = _of_import(said, section[1]) or _of_missing(said, section[1])
    found = found or _of_other_package(said, section[1])
    return found or (_of_type(said, section[1]) if "Expected a" in said else None)


def _of_former(error: SpecError, plan: Plan) -> Finding | None:
    found = _UNKNOWN_KEY.search(error.what)
    fix = fix_of_argument(found[1]) if found else None
    if found and fix and f".{SUCCESSORS[found[1]].partition('=')[0]}" in error.fix:
        fix = None  # the parser names the successor already
    for name in ("accelerator", "strategy"):
        value = read_trainer(plan.arguments, (name,)).get(name)
        fix = fix or (fix_of_value(name, value) if name in error.what else None)
    return refusal("spec", found[1] if found else "trainer", error.what, fix) if fix else None


def _of_class(error: SpecError) -> Finding | None:
    """Return the refusal of a misspelled class of Lightning's own."""
    found = _UNKNOWN_CLASS.search(error.what)
    if found is None:
        return None
    import importlib

    section, name = found.groups()
    folder = {"logger": "loggers", "profiler": "profilers"}
    module = importlib.import_module(f"lightning.pytorch.{folder.get(section, section)}")
    near = nearest_first(name, module.__all__)
    return refusal("spec", f"trainer.{section}", error.what, f"{near} {error.fix}")


def _of_import(said: str, section: str) -> Finding | None:
    """Return the refusal of a class whose path leads nowhere."""
    found = _NOWHERE.search(said)
    if found is None:
        return None
    what = f"{section}: {found[0]}."
    package = NO_MODULE.search(found[0])
    named = _PATH_OF_CLASS.search(said)
    if package and named and package[1] != named[1]:
        fix = f"Install it where the workers run: pip install {package[1]}"
        return refusal("spec", section, f"{what} {named[0]} imports it.", fix)
    fix = "Correct the path of the class: package.module.Class"
    if attribute := _NO_ATTRIBUTE.search(found[0]):
        kinds = vars(sys.modules.get(attribute[1], object)).items()
        fix = f"{nearest_first(attribute[2], [n for n, k in kinds if isinstance(k, type)])} {fix}"
    return refusal("spec", section, what, fix.strip())


def _of_missing(said: str, section: str) -> Finding | None:
    """Return the refusal of a class that lacks an argument."""
    found = _REQUIRED.search(said)
    if found is None:
        return None
    kind = _CLASS.search(said)
    what = f"{section}: {kind[1] if kind else 'the class'} needs {found[1]}."
    first = found[1].partition(",")[0]
    return refusal("spec", section, what, f"Give it: --{section}.{first}=VALUE")


def _of_other_package(said: str, section: str) -> Finding | None:
    """Return the refusal of a class of ``pytorch_lightning``, of which this Trainer takes none."""
    found, value = _OTHER_KIND.search(said), _VALUE.search(said)
    path = (found[1] or (value[1].strip() if value else "")) if found else ""
    module, _, name = path.rpartition(".")
    bases = getattr(getattr(sys.modules.get(module), name, None), "__mro__", ())
    modules = [module, *(base.__module__ for base in bases)]
    if not any(each.partition(".")[0] == _OTHER for each in modules):
        return None
    what = f"{section}: {path} is a class of {_OTHER}, and the Trainer is one of lightning."
    own = path.replace(f"{_OTHER}.", "lightning.pytorch.", 1)
    is_own = own != path
    fix = f"class_path: {own}" if is_own else f"Where {name} is: import lightning.pytorch as pl"
    return refusal("spec", section, what, fix)


def _of_type(said: str, section: str) -> Finding:
    said = _PATH.sub("", said) if _CLASS.search(said) else said
    key = _innermost(said, section)
    kinds = [_shown(kind) for kind in dict.fromkeys(_KIND.findall(said))]
    found = _VALUE.search(said)
    value = found[1].strip().rstrip(".") if found else ""
    what = f"{key}={value or '...'} is not {' or '.join(kinds)}."
    is_within = bool(_WITHIN.search(said))
    if not is_within and (whole := _ELEMENT.search(said)):
        what = f"{key}={(whole[1] or whole[2]).strip()}: {value} is not {' or '.join(kinds)}."
        return refusal("spec", key, what, f"Give it {' or '.join(kinds)} in place of {value}")
    if fix := _fix_of_shape(key, value):
        return refusal("spec", key, what, fix)
    written = _written(kinds[0], value)
    name = key.rpartition(".")[2]
    typed = f"{name}: {written}" if is_within else f"--{key}={shlex.quote(written)}"
    return refusal("spec", key, what, f"Give it {' or '.join(kinds)}: {typed}")


def _innermost(said: str, section: str) -> str:
    """Return the key of the value that a parser complains of, below that of the section."""
    keys: list[tuple[int, str]] = []
    for line in said.partition("Expected a")[0].splitlines()[1:]:
        if found := _INNER.fullmatch(line):
            keys = [*(each for each in keys if each[0] < len(found[1])), (len(found[1]), found[2])]
    return ".".join([section, *(name for _, name in keys)])


def _written(kind: str, value: str) -> str:
    """Return how to write a value of a kind, made of the one that was given."""
    if kind.startswith("one of"):
        return kind.removeprefix("one of ").partition(",")[0].strip("'")
    given: object = None
    with contextlib.suppress(ValueError, SyntaxError):
        given = ast.literal_eval(value)
    if elements := _ELEMENTS.search(kind):
        number = int(elements[1])
        known = [str(each) for each in given] if isinstance(given, (list, tuple)) else []
        return f"[{', '.join([*known, *(['VALUE'] * number)][:number])}]"
    if kind == "a list":
        return f"[{value}]" if value and value[0] not in "[{" else "[VALUE]"
    return "{NAME: VALUE}" if kind == "a mapping" else "VALUE"


def _fix_of_shape(key: str, value: str) -> str:
    """Return how to write one class that was written as a list, or arguments without a class."""
    if key.startswith("trainer.") and _ARGUMENT.fullmatch(value):
        kind = "WandbLogger" if key == "trainer.logger" else "CLASS"
        return f"Name the class first: --{key}={kind} --{key}.{value}"
    with contextlib.suppress(ValueError, SyntaxError):
        given = ast.literal_eval(value)
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
            import yaml

            name = key.rpartition(".")[2]
            text = yaml.safe_dump({name: given[0]}, sort_keys=False).rstrip()
            return f"It takes one class and not a list, so without the dash:\n{text}"
    return ""


def _shown(kind: str) -> str:
    if kind.startswith("typing.Literal["):
        return f"one of {kind[len('typing.Literal[') :].rstrip('].')}"
    name = kind.strip().rstrip(".")
    if name.startswith(("path but", "instantiatable class")):
        return "the path of a class that fits"
    return _KINDS.get(name, name if name.startswith(("a ", "an ")) else f"a {name}")
