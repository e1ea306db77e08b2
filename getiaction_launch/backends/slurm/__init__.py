"""SLURM: ``backend`` submits, ``step`` runs inside the job, ``job`` and ``queue`` find it again."""

from getiaction_launch.backends.slurm.backend import SlurmBackend

__all__ = ["SlurmBackend"]
