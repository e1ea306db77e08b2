"""The cluster config says where to run: one small YAML per cluster, found by its name."""

from dataclasses import dataclass, field
from pathlib import Path

from getiaction_launch.backend import Backend
from getiaction_launch.errors import ClusterConfigError, nearest_first

_SHIPPED = (
    Path(__file__).parent / "cluster_configs",  # in an installed wheel
    Path(__file__).parents[1] / "cluster_configs",  # in a checkout
)


@dataclass(frozen=True)
class ClusterConfig:
    """One cluster.

    Args:
        backend: Who starts nodes there: ``class_path`` and ``init_args`` in YAML.
        storage_root: Directory under which a relative ``default_root_dir`` lies; the directory
            of the command if not given.
        env_vars: Variables for every worker. They are written into ``plan.json``: no secrets.
    """

    backend: Backend
    storage_root: str | None = None
    env_vars: dict[str, str] = field(default_factory=dict)


def config_directories() -> list[Path]:
    """Where cluster configs are looked for, the first one wins."""
    import platformdirs

    user = Path(platformdirs.user_config_dir("getiaction-launch"), "cluster_configs")
    return [Path("cluster_configs"), user, *_SHIPPED]


def list_clusters() -> dict[str, Path]:
    """Every cluster config that a name would find."""
    found: dict[str, Path] = {}
    for directory in config_directories():
        for path in sorted(directory.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_cluster(name: str) -> Path:
    """Find a cluster config by its path or name.

    Raises:
        ClusterConfigError: If there is none.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise ClusterConfigError(
            f"--cluster {name}: there is no such file.",
            f"Name a file, or one of: {', '.join(list_clusters())}",
        )
    clusters = list_clusters()
    if name not in clusters:
        raise ClusterConfigError(
            f"--cluster {name}: no cluster config of that name.", nearest_first(name, clusters)
        )
    return clusters[name]


def read_cluster(path: Path) -> ClusterConfig:
    """Read and check a cluster config.

    Raises:
        ClusterConfigError: Naming the file and the key that does not fit.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClusterConfig, None)
    try:
        config = parser.instantiate(parser.parse_path(path))
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        raise ClusterConfigError(
            f"{path}: {error}", "A complete example: cluster_configs/local.yaml"
        ) from error
    return ClusterConfig(**config)
