"""What a run trains, and where each value comes from; secrets and private values are left out.

A run's directory is data from strangers, and a page is passed on: YAML is parsed only if it is
small also once its aliases are expanded, no file outside of the directory is read, and the values
of what looks like a secret are hidden.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from getiaction_launch.errors import RecordError
from getiaction_launch.launch.prepare import trace
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.secrets import has_credentials, is_secret_key
from getiaction_launch.plan.spec import DEFAULT, leaves
from getiaction_launch.report.contents.links import check_inside
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_bytes
from getiaction_launch.storage.strict_json import dumps

HIDDEN = "(hidden)"
"""What is shown instead of a secret, or of a value of somebody's environment."""
_LIMIT_BYTES = 256 << 10
_MOST_VALUES = 20_000
_LONGEST = 4000
_CONFIG, _HPARAMS = "config.yaml", "hparams.yaml"
_SPEC, _SCRIPT = "the spec", "hparams.yaml"
_YAML_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Value:
    """One value of a spec.

    Attributes:
        key: Dotted key of the value.
        text: The value as JSON.
        origin: Where it comes from: a file's path, ``command line`` or ``default``.
    """

    key: str
    text: str
    origin: str

    @property
    def is_default(self) -> bool:
        """Whether nobody has set it."""
        return self.origin == DEFAULT


def read_values(run: Run, plan: Plan | None, notes: list[str]) -> list[Value]:
    """Read the values of a run's spec; of a script, its hyperparameters.

    Args:
        run: The run to read.
        plan: The plan of the run; None if it cannot be read.
        notes: Gets a sentence for each file that cannot be read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    name = _HPARAMS if plan and plan.script else _CONFIG
    content = _read_yaml(run, run.directory / name, notes)
    found = leaves(content) if content else {}
    try:
        sources = _sources(plan.arguments if plan else ())
        for source in sources if not found else ():
            found.update(leaves(source))
        origins = _origins(plan, found, sources)
    except ValueError as error:
        notes.append(f"launch/plan.json: its spec {error}.")
        origins = {}
    default = _SCRIPT if plan and plan.script else _SPEC
    return [
        Value(key, _text(key, value), origins.get(key, default))
        for key, value in found.items()
        if value is not None or origins.get(key) != DEFAULT
    ]


def _read_yaml(run: Run, path: Path, notes: list[str]) -> dict[str, object] | None:
    try:
        check_inside(run, path)
        content = parse_yaml(read_bytes(path).decode(errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecordError as error:
        notes.append(error.what)
        return None
    except ValueError as error:
        notes.append(f"{path.name} {error}.")
        return None
    return content if isinstance(content, dict) else None


def parse_yaml(text: str) -> object:
    """Parse YAML that somebody else may have written.

    Args:
        text: The text of the file.

    Raises:
        ValueError: If it is not YAML, or is too large; the message continues "FILE ...".
    """
    if len(text) > _LIMIT_BYTES:
        raise ValueError(f"is larger than {_LIMIT_BYTES >> 10} KiB")
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _size(root, {}) > _MOST_VALUES:
            raise ValueError(f"has more than {_MOST_VALUES} values")
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except yaml.YAMLError:
        raise ValueError("is not YAML that can be read") from None


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values below a node as often as aliases repeat them; a cycle counts as too many."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_VALUES + 1  # until it is counted: it contains itself
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in _children(node))
    return sizes[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _sources(arguments: Sequence[str]) -> list[dict[str, object]]:
    """Return what each config file and override of a plan sets.

    Raises:
        ValueError: If one cannot be parsed; the message continues "its spec ...".
    """
    sources: list[dict[str, object]] = []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            content = parse_yaml(next(words, ""))
            sources.append(content if isinstance(content, dict) else {})
        else:
            key, _, text = word.removeprefix("--").partition("=")
            sources.append({key: parse_yaml(text)})
    return sources


def _origins(
    plan: Plan | None, keys: Iterable[str], sources: Sequence[Mapping[str, object]]
) -> dict[str, str]:
    """Return where each value comes from; nothing if that would need a file of this machine."""
    values = [value for source in sources for value in source.values()]
    if not plan or not sources or any(_is_file(value) for value in values):
        return {}
    try:
        return trace(plan, keys)
    except Exception:  # noqa: BLE001 - a plan that no launcher has written fits nothing
        return {}


def _is_file(value: object) -> bool:
    return isinstance(value, str) and value.endswith(_YAML_SUFFIXES)


def _text(key: str, value: object) -> str:
    text = dumps(_masked(key, value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _masked(key: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), child) for name, child in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_masked(key, child) for child in value]
    if value not in (None, "") and is_secret_key(key):
        return HIDDEN
    if isinstance(value, str) and has_credentials(value):
        return HIDDEN
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def masked_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without the values of what looks like a secret.

    Args:
        words: The words, of which some are flags.
    """
    shown: list[str] = []
    is_next_hidden = False
    for word in words:
        flag, separator, value = word.partition("=")
        is_flag = flag.startswith("-")
        if is_next_hidden and not is_flag:
            shown.append(HIDDEN)
        elif (is_flag and separator and is_secret_key(flag)) or has_credentials(value):
            shown.append(f"{flag}={HIDDEN}")
        else:
            shown.append(HIDDEN if has_credentials(word) else word)
        is_next_hidden = is_flag and not separator and is_secret_key(flag)
    return shown
