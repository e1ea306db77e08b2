"""The process apart becomes the worker of rank 0, without a GPU and without a way out."""

import multiprocessing
import os
import socket
from pathlib import Path

from getiaction_launch.checking.apart.layer import cover
from getiaction_launch.node.environment import trainer_defaults, worker_environment
from getiaction_launch.plan.plan import Plan
from getiaction_launch.system.ports import reserve_port

_CACHE = "GETIACTION_CACHE"
_claims: list[socket.socket] = []
_LEAKING = ("SLURM_", "GETIACTION_LAUNCH_", "PL_TRAINER_", "PMI_", "OMPI_", "LSB_", "JSM_")


def become_rank_0(plan: Plan, scratch: Path) -> bool:
    """Take the environment of the worker of rank 0, and close this process off.

    Args:
        plan: The plan of the run.
        scratch: Directory that may be written to.

    Returns:
        Whether compiled code cannot write elsewhere, either.
    """
    import torch

    from getiaction_launch.checking.apart.sandbox import close_off, overlay

    covered = cover(_directories_of(plan), scratch)
    for name in [name for name in os.environ if name.startswith(_LEAKING)]:
        del os.environ[name]
    os.environ.update(worker_environment(plan.topology, 0, 0, free_head(), "check"))
    os.environ.update(trainer_defaults(plan.topology, plan.env_vars))
    os.environ.update(plan.env_vars)
    os.environ["GETIACTION_RUN_DIR"] = str(scratch / "run")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is tried is tried on the CPU
    os.environ["TORCH_COMPILE_DISABLE"] = os.environ["TORCHDYNAMO_DISABLE"] = "1"
    # What a new process has not chosen yet, and the program may choose once.
    multiprocessing.set_start_method(None, force=True)
    # OpenMP's threads are not there any more, if this process had some before it was forked. The
    # variable keeps Lightning from asking for more, which would wait for each other's cores.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    overlay(_CACHE, _cache(), scratch)
    return close_off(scratch, covered)


def free_head() -> str:
    """Return an address and port for rank 0 that no other run takes as long as this process lives.

    Raises:
        CheckError: If there is none.
    """
    port, claim = reserve_port()
    _claims.append(claim)
    return f"127.0.0.1:{port}"


def _directories_of(plan: Plan) -> list[Path]:
    """Return where the run is likely to write: where it is started, and where its script lies."""
    script = plan.script_path
    return [Path(plan.working_directory), *([script.parent] if script else [])]


def _cache() -> Path:
    import platformdirs

    return Path(os.environ.get(_CACHE) or platformdirs.user_cache_dir("getiaction"))
