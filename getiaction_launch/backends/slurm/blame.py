"""Which of a user's settings SLURM means when it rejects a job: it names none of them."""

from getiaction_launch.backends.flag import settings_of, write_megabytes
from getiaction_launch.backends.slurm.settings import SlurmSettings
from getiaction_launch.errors import RefusedError
from getiaction_launch.plan.plan import Topology

_SIZE = ("nodelist", "exclude", "constraint", "memory_mb", "cpus_per_worker")
_MEANT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("node name", ("nodelist", "exclude")),
    ("violates", ("qos", "account", "time_limit_minutes")),
    ("account", ("account", "partition")),
    ("qos", ("qos",)),
    ("feature", ("constraint",)),
    ("dependency", ("dependency",)),
    ("memory", ("memory_mb",)),
    ("time limit", ("time_limit_minutes",)),
    ("generic resource", ("gpu_type",)),
    ("cpu count", ("cpus_per_worker",)),
    ("node count", ("nodelist",)),
    ("node configuration", _SIZE),
    ("partition", ("partition",)),
)
"""Words of SLURM, and the settings that they are about; the first words that fit count."""
_OF_GPUS = ("generic resource", "node configuration", "gres")


def name_settings(error: RefusedError, settings: SlurmSettings, topology: Topology) -> RefusedError:
    """Return an error that also names the flags, with their values, that SLURM means.

    Args:
        error: The error with SLURM's own words.
        settings: The settings of the job that SLURM has rejected.
        topology: The nodes and GPUs of that job.
    """
    words = error.what.lower()
    names = next((names for sign, names in _MEANT if sign in words), ())
    flags = {setting.name: setting.flag.names[0] for setting in settings_of(SlurmSettings)}
    flags["gpu_type"] = "--gpus-per-node"
    given = [(flags[name], _typed(name, getattr(settings, name))) for name in names]
    typed = [f"{flag} {value}" for flag, value in given if value is not None]
    typed += [
        f"--sbatch {key}={value}"
        for key, value in settings.sbatch.items()
        if key.rstrip("s") in words
    ]
    if topology.gpus_per_node and any(sign in words for sign in _OF_GPUS):
        kind = f"{settings.gpu_type}:" if settings.gpu_type else ""
        typed = [word for word in typed if not word.startswith("--gpus-per-node")]
        typed.append(f"--gpus-per-node {kind}{topology.gpus_per_node}")
    if not typed:
        return error
    return RefusedError(f"{', '.join(typed)}: {error.what}", error.fix)


def _typed(name: str, value: object) -> object:
    """Return a setting as people type it: 256G, where it is 262144 MB."""
    return write_megabytes(value) if name == "memory_mb" and isinstance(value, int) else value
