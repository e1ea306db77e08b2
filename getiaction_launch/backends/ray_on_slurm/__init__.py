"""Ray on SLURM: SLURM jobs in which the user's code finds a Ray cluster of its own."""

from getiaction_launch.backends.ray_on_slurm.backend import RayOnSlurmBackend

__all__ = ["RayOnSlurmBackend"]
