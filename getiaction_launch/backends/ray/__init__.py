"""Ray: each run is a job of Ray's Jobs API with one actor per node."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from getiaction_launch.backends.ray.backend import RayBackend

__all__ = ["RayBackend"]


def __getattr__(name: str) -> object:
    """Import the backend only when it is used: a command line's start needs the settings alone."""
    if name == "RayBackend":
        from getiaction_launch.backends.ray.backend import RayBackend

        return RayBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
