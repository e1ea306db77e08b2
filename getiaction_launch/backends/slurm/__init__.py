"""SLURM: ``backend`` submits, ``step`` runs inside the job, ``job`` and ``queue`` find it again."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from getiaction_launch.backends.slurm.backend import SlurmBackend

__all__ = ["SlurmBackend"]


def __getattr__(name: str) -> object:
    """Import the backend only when it is used: a command line's start needs the settings alone."""
    if name == "SlurmBackend":
        from getiaction_launch.backends.slurm.backend import SlurmBackend

        return SlurmBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
