"""The environment variables of a run's workers: what is missing, and what would mislead them."""

import os

from getiaction_launch.errors import CheckError, counted
from getiaction_launch.plan.plan import Plan
from getiaction_launch.storage.variables import variable_in

_GPUS = "CUDA_VISIBLE_DEVICES"
_LISTS_OF_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH")


def check_environment(plan: Plan) -> None:
    """Check the variables that a cluster config sets for the workers, or copies from this shell.

    Args:
        plan: The plan of the run.

    Raises:
        CheckError: If one is not set, hides GPUs from the workers, or names no directory.
    """
    missing = [name for name in plan.forward_env_vars or () if name not in os.environ]
    if missing:
        raise CheckError(
            f"forward_env_vars names {missing[0]}, which is not set in this shell.",
            f"export {missing[0]}=..., or remove it from the cluster config.",
        )
    _check_gpus(plan)
    for name in _LISTS_OF_PATHS:
        _check_paths(name, plan.env_vars.get(name, ""))


def _check_gpus(plan: Plan) -> None:
    """Refuse a list of GPUs that is shorter than that of a node's workers."""
    is_copied = _GPUS in (plan.forward_env_vars or ())
    given = plan.env_vars.get(_GPUS, os.environ.get(_GPUS) if is_copied else None)
    asked, seen = plan.topology.gpus_per_node, len([*filter(str.strip, (given or "").split(","))])
    if given is None or seen >= asked:
        return
    key = "env_vars" if _GPUS in plan.env_vars else "forward_env_vars"
    raise CheckError(
        f"{key}: {_GPUS}={given!r} shows {counted(seen, 'GPU')} to {counted(asked, 'worker')} of "
        "a node, and each of them needs its own.",
        f"Remove {_GPUS} from {key}: the scheduler shows each job the GPUs that are its own",
    )


def _check_paths(name: str, value: str) -> None:
    """Refuse a list of directories with what only a shell would expand."""
    parts = value.split(":")
    odd = next((each for each in parts if variable_in(each) or each.startswith("~")), None)
    if odd is not None:
        written_out = ":".join(map(os.path.expanduser, parts))
        is_plain = variable_in(value) is None
        raise CheckError(
            f"env_vars: {name}={value!r} is taken literally: nothing expands {odd} in a cluster "
            "config.",
            f"Write it out: env_vars: {{{name}: {written_out!r}}}"
            if is_plain
            else f"Write it out, or for SLURM: setup: ['export {name}={value}']",
        )
