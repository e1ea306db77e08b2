"""The spec says what to train: LightningCLI's config files and overrides, read and run.

Its keys and values are judged by the parser of ``getiaction fit`` alone, which gets the files'
text and the overrides as they were typed, so laptop and cluster cannot disagree. What is read from
them here, without importing torch, is a view: for the few keys that a launcher must know before
anything starts, and for people.
"""

import argparse
import contextlib
import importlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from getiaction_launch.errors import SpecError, nearest_first

CLI_CLASS = "getiaction.cli.CLI"
"""Who parses and runs a spec: a ``LightningCLI`` that takes ``args`` and raises on bad input."""

SECTIONS = (
    "trainer",
    "model",
    "data",
    "optimizer",
    "lr_scheduler",
    "seed_everything",
    "ckpt_path",
    "weights_only",
)

_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


class _Loader(yaml.SafeLoader):
    """YAML as jsonargparse reads it."""


# YAML 1.1 wants 1.0e-5 for a number; dates, which it knows, are text to every parameter.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


@dataclass
class Spec:
    """What to train.

    Attributes:
        arguments: For ``getiaction fit``: each config file's text and each override, as typed.
        view: The same merged into nested mappings.
        origins: For each dotted key of the view where its value comes from.
    """

    arguments: list[str] = field(default_factory=list)
    view: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def override(self, key: str, text: str, origin: str = "command line") -> None:
        """Set one dotted key; ``key+`` appends to a list.

        Raises:
            SpecError: If the key's first word is no section of a spec.
        """
        _check_sections([key.partition(".")[0].rstrip("+")], f"--{key}")
        self.arguments.append(f"--{key}={text}")
        try:
            value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError:
            value = text  # a plain string to a parameter that wants one
        full = _set(self.view, key, value)
        kept = leaves(self.view)
        named = (*leaves(value, full), f"{full}.class_path")
        self.origins.update(dict.fromkeys(named, origin))
        self.origins = {name: place for name, place in self.origins.items() if name in kept}

    @property
    def trainer(self) -> Mapping[str, Any]:
        """The Trainer's keys.

        Raises:
            SpecError: If they are no mapping.
        """
        trainer = self.view.get("trainer")
        if not isinstance(trainer, dict | None):
            raise SpecError(f"trainer={trainer!r} is no mapping.", "--trainer.max_epochs=100")
        return trainer or {}


def read_spec(config_paths: Sequence[str], overrides: Sequence[tuple[str, str]]) -> Spec:
    """Read config files, later ones over earlier ones, and dotted overrides over all.

    Args:
        config_paths: YAML files.
        overrides: ``(dotted key, value)`` as typed.

    Raises:
        SpecError: For a missing file, YAML that is none, or an unknown section.
    """
    spec = Spec()
    for path in config_paths:
        text, content = _read_yaml(path)
        _check_sections(content, path)
        spec.arguments += ["--config", text]
        for key, value in content.items():
            _set(spec.view, key, value)
            spec.origins.update(dict.fromkeys(leaves(value, key), path))
    for key, text in overrides:
        spec.override(key, text)
    return spec


def _read_yaml(path: str) -> tuple[str, dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise SpecError(
            f"--config {path}: {error.strerror}.", f"Is it there? ls {Path(path).parent}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it is no text"
        raise SpecError(
            f"--config {path} is not YAML: {reason}{where}.", "Mend that and try again."
        ) from error
    if not isinstance(content, dict):
        raise SpecError(
            f"--config {path} holds {type(content).__name__}, not a mapping.",
            "A spec has the sections trainer, model and data.",
        )
    return text, content


def _check_sections(keys: Sequence[str] | Mapping[str, Any], source: str) -> None:
    for key in keys:
        if key not in SECTIONS:
            raise SpecError(
                f"{source}: {key!r} is no section of a spec.", nearest_first(str(key), SECTIONS)
            )


def _set(view: dict[str, Any], key: str, value: Any) -> str:  # noqa: ANN401 - any YAML value
    """Set one dotted key as LightningCLI would; return the key in full."""
    *parents, last = key.rstrip("+").split(".")
    node: Any = view
    full: list[str] = []
    for part in parents:
        node = _enter(node, part, full)
    if isinstance(node, list) and node:
        node = node[-1]
    node = _arguments(node, last, full) if isinstance(node, dict) else {}
    full.append(last)
    if key.endswith("+"):
        items = node.get(last) or []
        items = items if isinstance(items, list) else [items]
        value = [*items, *(value if isinstance(value, list) else [value])]
    if last == "class_path" and node.get(last) != value:
        node.clear()  # arguments of one class mean nothing to another
    _merge(node, last, value)
    return ".".join(full)


def _enter(node: Any, part: str, full: list[str]) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(node, list) and node:
        node = node[-1]  # as in LightningCLI, a list's dotted key means its last item
    if not isinstance(node, dict):
        return {}  # a key below a plain value, which the parser will refuse
    node = _arguments(node, part, full)
    full.append(part)
    child = node.get(part)
    if isinstance(child, str):
        child = {"class_path": child}  # `--model ACT` is short for `--model.class_path=ACT`
    node[part] = {} if child is None else child
    return node[part]


def _arguments(node: dict[str, Any], part: str, full: list[str]) -> dict[str, Any]:
    """``--model.lr`` is short for ``--model.init_args.lr``."""
    if "class_path" not in node or part in _CLASS_KEYS:
        return node
    full.append("init_args")
    arguments: dict[str, Any] = node.setdefault("init_args", {})
    return arguments


def _merge(node: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - any YAML value
    """Sections and classes are merged key by key, every other value is replaced."""
    known = node.get(key)
    class_path = known.get("class_path") if isinstance(known, dict) else None
    if class_path and isinstance(value, str):
        value = {"class_path": value}
    is_merged = class_path or key in ("trainer", "init_args")
    if not (is_merged and isinstance(known, dict) and isinstance(value, dict)):
        node[key] = value
        return
    if value.get("class_path", class_path) != class_path:
        known.clear()
    for name, item in value.items():
        _merge(known, name, item)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - any YAML value
    """Flatten nested mappings into dotted keys and their values."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    children = (leaves(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items())
    return {key: value for child in children for key, value in child.items()}


def parse(arguments: Sequence[str]) -> str:
    """Judge every key and type by the parser that will run them.

    Imports torch, Lightning and the user's classes: seconds.

    Args:
        arguments: A spec's.

    Returns:
        The whole spec with all defaults, as YAML.

    Raises:
        SpecError: Naming the first key that is unknown or whose value does not fit.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        _run_cli([*arguments, "--print_config"])
    return printed.getvalue()


def fit(arguments: Sequence[str]) -> None:
    """Build Trainer, policy and data from a spec's arguments and fit, in this process.

    Raises:
        SpecError: If they do not parse.
    """
    _run_cli(arguments)


def _run_cli(arguments: Sequence[str]) -> None:
    module, _, name = CLI_CLASS.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)(args=["fit", *arguments])
    except argparse.ArgumentError as error:
        raise SpecError(str(error)) from error
