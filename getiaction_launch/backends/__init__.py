"""Backends, which start the nodes of runs: one for each kind of cluster."""


def shipped_settings() -> dict[str, type]:
    """Return the classes whose fields are settings with flags, by the scheduler's name."""
    from getiaction_launch.backends.ray.settings import RaySettings
    from getiaction_launch.backends.slurm.settings import SlurmSettings

    return {"SLURM": SlurmSettings, "Ray": RaySettings}
