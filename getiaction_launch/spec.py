"""The spec says what to train: LightningCLI's YAML, read, merged, overridden and run.

A spec is plain data (``trainer``, ``model``, ``data``, ``seed_everything``, ``ckpt_path``, ...),
the same that ``getiaction fit --config`` takes. Its keys and types are judged by that command's
own parser (:func:`parse`), so laptop and cluster cannot disagree.
"""

import argparse
import contextlib
import importlib
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from getiaction_launch.errors import SpecError, nearest_first

Spec = dict[str, Any]

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
    """YAML as jsonargparse reads it: ``1e-5`` is a number (YAML 1.1 wants ``1.0e-5``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_spec(
    config_paths: Sequence[str], overrides: Sequence[tuple[str, str]]
) -> tuple[Spec, dict[str, str]]:
    """Merge config files, later ones over earlier ones, and dotted overrides over all.

    Args:
        config_paths: YAML files.
        overrides: ``(dotted key, value as YAML)``; ``key+`` appends to a list.

    Returns:
        The spec, and for each dotted key of it where its value comes from.

    Raises:
        SpecError: For a missing file, YAML that is none, or an unknown section.
    """
    spec: Spec = {}
    origins: dict[str, str] = {}
    for path in config_paths:
        content = _read_yaml(path)
        _check_sections(content, path)
        _merge(spec, content)
        origins.update(dict.fromkeys(leaves(content), path))
    for key, text in overrides:
        _check_sections({key.partition(".")[0].rstrip("+"): None}, f"--{key}")
        try:
            value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with one more resolver
        except yaml.YAMLError as error:
            raise SpecError(f"--{key}={text} is not YAML: {_reason(error)}.") from error
        origins[_set(spec, key, value)] = "command line"
    return spec, origins


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"


def _read_yaml(path: str) -> Spec:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506 - as above
    except OSError as error:
        raise SpecError(
            f"--config {path}: {error.strerror}.", f"Is it there? ls {Path(path).parent}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = _reason(error) if isinstance(error, yaml.YAMLError) else "it is no text"
        raise SpecError(
            f"--config {path} is not YAML: {reason}.", "Mend that line and try again."
        ) from error
    if not isinstance(content, dict):
        raise SpecError(
            f"--config {path} holds {type(content).__name__}, not a mapping.",
            "A spec has the sections trainer, model and data.",
        )
    return {k: _as_class(v) if k in ("model", "data") else v for k, v in content.items()}


def _check_sections(content: Spec, source: str) -> None:
    for key in content:
        if key not in SECTIONS:
            raise SpecError(
                f"{source}: {key!r} is no section of a spec.", nearest_first(str(key), SECTIONS)
            )


def _merge(spec: Spec, other: Spec) -> None:
    for key, value in other.items():
        known = spec.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            _forget_class(known, value.get("class_path"))
            _merge(known, value)
        else:
            spec[key] = value


def _forget_class(node: dict[str, Any], class_path: str | None) -> None:
    """Arguments of one class mean nothing to another."""
    if class_path and node.get("class_path") not in (None, class_path):
        node.pop("init_args", None)
        node.pop("dict_kwargs", None)


def _set(spec: Spec, key: str, value: Any) -> str:  # noqa: ANN401 - any YAML value
    """Set one dotted key as LightningCLI would; return the key in full."""
    append = key.endswith("+")
    parts = key.rstrip("+").split(".")
    node: Any = spec
    full: list[str] = []
    while True:
        if isinstance(node, list) and node:
            node = node[-1]  # as in LightningCLI, a list's dotted key means its last item
        if not isinstance(node, dict):
            whole = ".".join(full)
            raise SpecError(
                f"--{key}: {whole} is {node!r}, which has no {parts[0]!r}.",
                f"Set it whole: --{whole}=VALUE",
            )
        if "class_path" in node and parts[0] not in _CLASS_KEYS:
            parts.insert(0, "init_args")
        part = parts.pop(0)
        full.append(part)
        if not parts:
            break
        if node.get(part) is None:
            node[part] = {}
        elif _is_class_path(node[part]):
            node[part] = {"class_path": node[part]}
        node = node[part]
    if append:
        items = node.get(part) or []
        items = items if isinstance(items, list) else [items]
        value = [*items, *(value if isinstance(value, list) else [value])]
    if part == "class_path":
        _forget_class(node, value)
    _merge(node, {part: _as_class(value) if full in (["model"], ["data"]) else value})
    return ".".join(full)


def _as_class(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """``--model ACT`` is short for ``--model.class_path=ACT``."""
    return {"class_path": value} if isinstance(value, str) else value


def _is_class_path(value: Any) -> bool:  # noqa: ANN401 - any YAML value
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - any YAML value
    """Flatten nested mappings into dotted keys and their values."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    children = (leaves(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items())
    return {key: value for child in children for key, value in child.items()}


def parse(spec: Spec) -> str:
    """Judge every key and type of ``spec`` by the parser that will run it.

    Imports torch, Lightning and the user's classes: seconds.

    Returns:
        The whole spec with all defaults, as YAML.

    Raises:
        SpecError: Naming the first key that is unknown or whose value does not fit.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(spec, file)
        file.flush()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            _run_cli(["fit", "--config", file.name, "--print_config"])
    return printed.getvalue()


def fit(spec: Spec) -> None:
    """Build Trainer, policy and data from ``spec`` and fit, in this process.

    Raises:
        SpecError: If the spec does not parse.
    """
    _run_cli({"subcommand": "fit", "fit": spec})


def _run_cli(arguments: list[str] | Spec) -> None:
    module, _, name = CLI_CLASS.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)(args=arguments)
    except argparse.ArgumentError as error:
        raise SpecError(str(error)) from error
