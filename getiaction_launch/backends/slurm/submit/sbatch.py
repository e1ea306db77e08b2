"""What submitit's call of sbatch needs: a clean environment, a time limit, readable errors."""

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Collection, Iterator

import psutil

from getiaction_launch.backends.flag import settings_of
from getiaction_launch.backends.slurm.command import KEPT_VARIABLES, refusal
from getiaction_launch.backends.slurm.settings import SlurmSettings
from getiaction_launch.errors import UnreachableError
from getiaction_launch.system import mpi
from getiaction_launch.system.orphans import RUN_VARIABLE

SBATCH_SECONDS = 120

# Variables that jobs need even if only named variables are forwarded to them.
_SHELL_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PYTHONPATH",
)
# Variables of a job that this shell runs in or of another launcher, and those by which sbatch would
# override the script's header.
_LEAKING = re.compile(
    r"SLURM_.*|SLURMD_.*|SRUN_.*|SUBMITIT_.*|TORCHELASTIC_.*|GETIACTION_LAUNCH_.*"
    r"|MASTER_ADDR|MASTER_PORT|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME"
    r"|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES"
    rf"|{RUN_VARIABLE}|{mpi.VARIABLES}"
    r"|SBATCH_(.*BIND.*|ARRAY_INX|CPUS_PER_GPU|DISTRIBUTION|ERROR|GPUS.*|GRES|INPUT|JOB_NAME"
    r"|NO_REQUEUE|OPEN_MODE|OUTPUT|OVERCOMMIT|REQUEUE|SIGNAL|WAIT|CLUSTERS)"
)


@contextlib.contextmanager
def sbatch_environment(
    asked: Collection[str], forward_env_vars: Collection[str] | None
) -> Iterator[None]:
    """Hide the environment variables that would change the job, or that it must not get.

    Args:
        asked: Names of the sbatch options that the script's header sets.
        forward_env_vars: Names of the environment variables to copy to the job; None for all.
    """
    # Not sbatch's --export: with names, it also loads the login shell's variables on the node.
    wanted = None if forward_env_vars is None else {*forward_env_vars, *_SHELL_VARIABLES}
    # sbatch prefers these variables to the script's header.
    overriding = {
        variable
        for setting in settings_of(SlurmSettings)
        if setting.flag.name[2:] in asked
        for variable in setting.flag.variables
    }

    def is_wanted(name: str) -> bool:
        if name in KEPT_VARIABLES:
            return True
        if _LEAKING.fullmatch(name) or name in overriding:
            return False
        return wanted is None or name in wanted or name.startswith("SBATCH_")

    removed = {name: os.environ.pop(name) for name in list(os.environ) if not is_wanted(name)}
    try:
        yield
    finally:
        os.environ.update(removed)


@contextlib.contextmanager
def sbatch_errors() -> Iterator[None]:
    """Turn submitit's failures into the launcher's errors, and limit how long sbatch may take.

    Raises:
        RefusedError: If sbatch rejects the job.
        UnreachableError: If SLURM does not answer in time.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    is_late = threading.Event()

    def end_sbatch() -> None:
        is_late.set()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.name() == "sbatch":
                    child.kill()

    timer = threading.Timer(SBATCH_SECONDS, end_sbatch)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        if is_late.is_set():
            raise UnreachableError(
                f"sbatch did not finish within {SBATCH_SECONDS} s.",
                "Before you try again, check whether SLURM has the job: squeue --me",
            ) from error
        raise refusal("sbatch", str(error)) from error
    finally:
        timer.cancel()
