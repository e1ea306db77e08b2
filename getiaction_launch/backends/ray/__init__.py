"""Ray: each run is a job of Ray's Jobs API with one actor per node."""

from getiaction_launch.backends.ray.backend import RayBackend

__all__ = ["RayBackend"]
