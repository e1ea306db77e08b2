"""The GPUs of this machine, without importing torch."""

import functools
import os
import shutil
import subprocess

from getiaction_launch.errors import CheckError


def visible_gpus() -> list[str]:
    """List the GPUs that a process here may use, by their ids in ``CUDA_VISIBLE_DEVICES``.

    Raises:
        CheckError: If nvidia-smi fails or does not answer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    return _installed_gpus()


@functools.cache
def _installed_gpus() -> list[str]:
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise CheckError(
            f"nvidia-smi could not list the GPUs: {error}.",
            "Set them yourself: CUDA_VISIBLE_DEVICES=0,1 getiaction-launch ...",
        ) from error
    return result.stdout.split()
