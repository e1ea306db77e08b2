"""Who starts a run's nodes: one backend for each kind of cluster."""


def shipped_settings() -> dict[str, type]:
    """The settings that come with the launcher and have flags, by the name of their cluster."""
    from getiaction_launch.backends.ray.settings import RaySettings
    from getiaction_launch.backends.slurm.settings import SlurmSettings

    return {"SLURM": SlurmSettings, "Ray": RaySettings}
