"""Environment variables of a cluster config: each value is the text that stands in the file."""

import re
from collections.abc import Mapping
from pathlib import Path

from getiaction_launch.errors import ClusterConfigError
from getiaction_launch.plan.yaml_text import load_text, read_yaml

_OF_WORKERS = re.compile(
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE))|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
)


def read_env_vars(path: Path) -> dict[str, str]:
    """Read ``env_vars`` of a cluster config.

    YAML makes a number of ``010`` and a truth value of ``no``, but a variable holds text: it gets
    what the file shows, whether or not it is in quotes.

    Args:
        path: The file of the cluster config, which is a mapping in YAML.

    Raises:
        ClusterConfigError: If ``env_vars`` is not a mapping of names to single values, or sets what
            each worker gets from the launcher.
    """
    _, content = read_yaml(path, load_text)
    values = content.get("env_vars") if isinstance(content, Mapping) else None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ClusterConfigError(
            f"{path}: env_vars must be a mapping of names to values.",
            "e.g. env_vars: {OMP_NUM_THREADS: 4}",
        )
    for name, value in values.items():
        if _OF_WORKERS.fullmatch(name):
            raise ClusterConfigError(
                f"{path}: env_vars.{name} is set by the launcher for each worker, as by torchrun, "
                "so this value would be ignored.",
                f"Leave {name} out.",
            )
        if value is None:
            raise ClusterConfigError(
                f"{path}: env_vars.{name} has no value.",
                f"To copy it from your shell: forward_env_vars: [{name}]. For an empty one: "
                f"env_vars: {{{name}: ''}}",
            )
        if isinstance(value, (Mapping, list)):
            kind = "a mapping" if isinstance(value, Mapping) else "a list"
            raise ClusterConfigError(
                f"{path}: env_vars.{name} is {kind}, but a variable holds one text.",
                f"Write it as the program reads it, such as env_vars: {{{name}: 'a,b'}}",
            )
    return {name: str(value) for name, value in values.items()}
