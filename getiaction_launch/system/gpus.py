"""The GPUs of this machine, without importing torch."""

import contextlib
import functools
import os
import shutil
import subprocess
from pathlib import Path

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


def gpu_models(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """List the models of the GPUs of this machine; empty where NVIDIA's driver shows none.

    Args:
        driver: The directory in which the driver has a file about each GPU, as `NVIDIA's README
            <https://download.nvidia.com/XFree86/Linux-x86_64/550.54.14/README/procinterface.html>`_
            describes it.
    """
    models = []
    for path in sorted(driver.glob("*/information")):
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            named = (line.partition(":") for line in lines)
            models += [value.strip() for key, _, value in named if key.strip() == "Model"]
    return models


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
