"""Refuses settings that mean nothing where a run will be, and those that Ray would not take.

Jobs that are submitted take all settings, a private cluster and a job that runs already do not.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from getiaction_launch.backends.ray.settings import RaySettings
from getiaction_launch.errors import ClusterConfigError, nearest_first

_SIMILAR = 0.75


def check_runtime_env(runtime_env: Mapping[str, Any], *, is_of_job: bool = True) -> None:
    """Have Ray judge a runtime environment.

    Args:
        runtime_env: The environment, as ``ray.init`` takes it.
        is_of_job: Whether a job or a cluster is started with it, for which Ray copies directories
            of this machine; otherwise actors in a job that runs already.

    Raises:
        ClusterConfigError: If Ray refuses it, or would silently ignore one of its keys.
    """
    if not runtime_env:
        return
    import ray
    from ray.runtime_env import RuntimeEnv  # slow to import

    try:
        if is_of_job:
            RuntimeEnv(**runtime_env)
        else:
            actor: Any = ray.remote(object)
            actor.options(runtime_env=dict(runtime_env))
    except (TypeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ClusterConfigError(
            f"runtime_env: Ray refuses it: {said}.",
            "What it takes: https://docs.ray.io/en/latest/ray-core/handling-dependencies.html",
        ) from error
    known = RuntimeEnv.known_fields | inspect.signature(RuntimeEnv).parameters.keys()
    for key in sorted(runtime_env.keys() - known):  # others may be a plugin's of the cluster
        if difflib.get_close_matches(key, known, cutoff=_SIMILAR):
            raise ClusterConfigError(
                f"runtime_env: Ray has no key {key!r} and would ignore it.",
                nearest_first(key, (name for name in known if not name.startswith("_"))),
            )


def check_job_options(options: Mapping[str, object]) -> None:
    """Check that this version of Ray has the options of ``--ray`` for jobs.

    Raises:
        ClusterConfigError: If there is no such option.
    """
    if not options:
        return
    from ray.job_submission import JobSubmissionClient  # slow to import

    known = inspect.signature(JobSubmissionClient.submit_job).parameters
    if unknown := options.keys() - known.keys():
        key = min(unknown)
        raise ClusterConfigError(
            f"--ray {key}: this version of Ray has no such option for jobs.",
            nearest_first(key, (name for name in known if name.startswith("entrypoint_"))),
        )


def refuse_job_settings(settings: RaySettings, reason: str, fix: str) -> None:
    """Refuse what only a job has that is submitted: its name and its options.

    Args:
        settings: The settings of a run for which no job is submitted.
        reason: Why there is no such job.
        fix: What to do about it.

    Raises:
        ClusterConfigError: If one of them is set.
    """
    for key, value in settings.ray.items():
        raise ClusterConfigError(f"--ray {key}={value} has no effect: {reason}.", fix)
    if name := settings.submission_id:
        raise ClusterConfigError(f"--submission-id {name} has no effect: {reason}.", fix)
