"""The spec says what to train: LightningCLI's config files and overrides.

A spec is kept as the arguments of ``getiaction fit``: the text of each config file, and each
override as it was typed. The parser of that command alone merges and judges them, so a laptop and
a cluster cannot disagree. Only :data:`TRAINER_KEYS`, which must be known before anything starts,
are also read here, without importing torch.
"""

import argparse
import contextlib
import functools
import importlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from getiaction_launch.errors import SpecError, nearest_first
from getiaction_launch.plan.secrets import refuse_secrets_of_spec
from getiaction_launch.plan.yaml_text import KEEP_ONE, duplicate_key, read_yaml

CLI_CLASS = "getiaction.cli.CLI"
"""What parses and runs a spec: a ``LightningCLI`` that takes ``args`` and raises on bad input."""

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

TRAINER_KEYS = ("num_nodes", "devices", "accelerator", "experiment_name", "default_root_dir")
"""What decides how many processes a run has, and where its directory lies."""

_DEVICES = "trainer.devices (--gpus-per-node)"

DEFAULT = "default"
"""The origin of a value that no config file and no override sets."""

_ELSEWHERE = (
    *("trainer.num_nodes", "trainer.devices", "trainer.experiment_name", "trainer.max_epochs"),
    *("trainer.max_steps", "trainer.default_root_dir", "--nodes", "--gpus-per-node", "--name"),
    *("--partition", "--account", "--time", "--mem"),
)
"""Where to write what people look for at the top of a spec."""

_TEXT_KEYS = ("trainer.experiment_name", "trainer.default_root_dir")
_YAML_SUFFIXES = (".yaml", ".yml", ".json")
_SHORTENED = re.compile(r"\.(init_args|dict_kwargs)(?=\.)|\.class_path$|\+(?=\.|$)")


def read_spec(config_paths: Sequence[str], overrides: Sequence[tuple[str, str]]) -> list[str]:
    """Read config files and overrides, and check what needs no torch.

    Args:
        config_paths: YAML files, of which later ones win over earlier ones.
        overrides: Dotted keys with their values as typed, which win over all files.

    Returns:
        The arguments of ``getiaction fit``.

    Raises:
        SpecError: For a file that is missing or is not YAML, for an unknown section, for a key that
            is set twice in one file, or for a secret, since all of it is written to the run's
            directory.
    """
    arguments = []
    for path in config_paths:
        text, content = _read_config(path)
        _check_sections(content, f"--config {path}")
        for section, value in content.items():
            _check_named_file(section, value)
        arguments += ["--config", text]
    for key, text in overrides:
        _check_sections([key.partition(".")[0].rstrip("+")], f"--{key}")
        _refuse_duplicates(text, f"--{key}={text}")
        _check_named_file(f"--{key}", text)
        arguments.append(f"--{key}={text}")
    for source in _read_sources(arguments):
        refuse_secrets_of_spec(source)
    return arguments


def read_trainer(arguments: Sequence[str], keys: Sequence[str] = TRAINER_KEYS) -> dict[str, object]:
    """Read some of the Trainer's keys that a spec sets.

    Args:
        arguments: The arguments of ``getiaction fit``, as :func:`read_spec` returns them.
        keys: The keys to read, without ``trainer.``.

    Returns:
        The value of each key: that of the last file or override that sets it.

    Raises:
        SpecError: If the section ``trainer`` is not a mapping.
    """
    found: dict[str, object] = {}
    for source in _read_sources(arguments):
        section = source.get("trainer", {})
        if section is None:
            found.clear()  # `trainer:` with nothing below it
        elif not isinstance(section, Mapping):
            nearest = f"Did you mean --trainer.{section}?" if "=" in str(section) else ""
            raise SpecError(
                f"trainer={section!r} is not a mapping of the Trainer's keys.",
                nearest or "Set its keys, for example: --trainer.max_epochs=100",
            )
        dotted = {
            key.removeprefix("trainer."): value
            for key, value in source.items()
            if key.startswith("trainer.")
        }
        for key, value in {**(section or {}), **dotted}.items():
            name = key.rstrip("+")
            is_appended = name != key
            found[name] = [*_as_list(found.get(name)), *_as_list(value)] if is_appended else value
    return {name: value for name, value in found.items() if name in keys}


def parse(arguments: Sequence[str]) -> dict[str, object]:
    """Judge every key and type by the parser that will run them.

    Imports torch, Lightning and the user's classes, which takes seconds.

    Args:
        arguments: The arguments of ``getiaction fit``.

    Returns:
        The whole spec as the parser understands it, with all defaults.

    Raises:
        SpecError: Naming the first key that is unknown or whose value does not fit.
    """
    return print_parsed(run_cli, arguments)


def print_parsed(
    parse_words: Callable[[list[str]], object], arguments: Sequence[str]
) -> dict[str, object]:
    """Have a parser print a spec with all defaults, and return it.

    Args:
        parse_words: Parses arguments, and exits where these ask for the spec.
        arguments: The arguments of ``getiaction fit``.
    """
    printed = _LastWrite()
    exits = contextlib.suppress(SystemExit)
    with writing_errors(), contextlib.redirect_stdout(printed), exits:
        parse_words([*arguments, "--print_config"])
    return read_printed(printed.getvalue())


@contextlib.contextmanager
def writing_errors() -> Iterator[None]:
    """Turn the error of a spec that cannot be written as YAML into one for the user.

    Raises:
        SpecError: If one of the values has no form in YAML.
    """
    import yaml

    try:
        yield
    except (ValueError, yaml.YAMLError) as error:
        # Such as a default that is a complex number, in a mapping of any values.
        raise SpecError(
            f"the spec cannot be written as YAML, which Lightning does before training: {error}",
            "Set the argument that cannot be written to plain text or a number.",
        ) from error


def read_printed(text: str) -> dict[str, object]:
    """Read a spec as its parser has written it."""
    import yaml

    return cast("dict[str, object]", yaml.safe_load(text) or {})


def find_origins(
    keys: Iterable[str], arguments: Sequence[str], origins: Sequence[str]
) -> dict[str, str]:
    """Find where each value of a parsed spec comes from.

    Args:
        keys: Dotted keys of the parsed spec, whose class paths and ``init_args`` are in full.
        arguments: The arguments of ``getiaction fit``, which may have the short forms.
        origins: What to call each config file and each override, in their order.

    Returns:
        For each key the origin of what set it last, or ``default``.
    """
    sources = [
        (origin, {_shorten(key) for key in _named_keys(source)})
        for origin, source in zip(origins, _read_sources(arguments), strict=True)
    ]
    found = {}
    for key in keys:
        short = _shorten(key)
        # `--trainer.callbacks.every=5` sets an item of the list that is the value of this key.
        below = "\0" if key.endswith(".class_path") else f"{short}."
        found[key] = DEFAULT
        for origin, names in sources:
            if short in names or any(name.startswith(below) for name in names):
                found[key] = origin
    return found


def leaves(node: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings into dotted keys and their values."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    children = (leaves(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items())
    return {key: value for child in children for key, value in child.items()}


class _LastWrite(io.StringIO):
    """Keeps only what is written last: modules that the parser imports may print, too."""

    def write(self, text: str) -> int:
        self.seek(0)
        self.truncate()
        return super().write(text)


def run_cli(arguments: Sequence[str], derive: Callable[[Any], Any] | None = None) -> None:
    """Run the command line interface of specs in this process.

    Args:
        arguments: The arguments of ``getiaction fit``.
        derive: Makes the class to run from the interface's own.

    Raises:
        SpecError: If the arguments do not parse, or a class that they name refuses them.
    """
    module, _, name = CLI_CLASS.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    try:
        (derive(kind) if derive else kind)(args=["fit", *arguments])
    except argparse.ArgumentError as error:
        what, _, fix = str(error).partition("\n")
        raise SpecError(what, fix.replace("trainer.devices", _DEVICES, 1)) from error


@functools.lru_cache(maxsize=64)
def load(text: str) -> object:
    """Read YAML, or raise YAMLError, as the parser of a spec does; the value is shared."""
    import jsonargparse  # slow to import

    return jsonargparse.get_loader("yaml")(text)


def _read_config(path: str) -> tuple[str, dict[str, object]]:
    """Read a config file; return its text and what it sets."""
    try:
        text, content = read_yaml(Path(path), load)
    except OSError as error:
        raise SpecError(
            f"--config {path}: {error.strerror}.",
            f"Name a file that can be read; those there: ls {Path(path).parent}",
        ) from error
    except ValueError as error:
        raise SpecError(
            f"--config {path} is not YAML: {error}.", "Fix it and try again."
        ) from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else type(content).__name__
        raise SpecError(
            f"--config {path} holds {kind}, not a mapping.",
            "A spec has the sections trainer, model and data.",
        )
    _refuse_duplicates(text, f"--config {path}")
    return text, content


def _check_named_file(source: str, value: object) -> None:
    """Check a file that a section names instead of its own content."""
    if isinstance(value, str) and value.endswith(_YAML_SUFFIXES) and Path(value).is_file():
        text = Path(value).read_text(encoding="utf-8", errors="replace")
        _refuse_duplicates(text, f"{source}: {value}")


def _refuse_duplicates(text: str, source: str) -> None:
    if found := duplicate_key(text):
        raise SpecError(f"{source}: {found}.", KEEP_ONE)


def _check_sections(keys: Iterable[str], source: str) -> None:
    for key in keys:
        if key not in SECTIONS:
            raise SpecError(
                f"{source}: unknown section {key!r}.",
                nearest_first(str(key), [*SECTIONS, *_ELSEWHERE]),
            )


def _read_sources(arguments: Sequence[str]) -> Iterator[dict[str, object]]:
    """What each config file and each override sets: sections, or one dotted key."""
    words = iter(arguments)
    for word in words:
        if word == "--config":
            yield cast("dict[str, object]", load(next(words)))
        else:
            key, _, text = word.removeprefix("--").partition("=")
            yield {key: _read_value(key, text)}


def _read_value(key: str, text: str) -> object:
    import yaml

    try:
        value = load(text)
    except yaml.YAMLError:
        return text  # a plain string to a parameter that wants one
    return text if key in _TEXT_KEYS and value is not None else value


def _named_keys(source: Mapping[str, object]) -> Iterator[str]:
    """The dotted keys that a config file or an override sets, in a file that it names too."""
    for key, value in source.items():
        content = value
        if isinstance(value, str) and value.endswith(_YAML_SUFFIXES) and Path(value).is_file():
            content = _read_value(key, Path(value).read_text(encoding="utf-8", errors="replace"))
        yield from leaves(content, key)


def _shorten(key: str) -> str:
    """``model.init_args.lr`` -> ``model.lr``, and ``model.class_path`` -> ``model``."""
    return _SHORTENED.sub("", key)


def _as_list(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
