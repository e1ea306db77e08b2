"""What a program wants of GPUs, in a run that has none."""

import re

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.plain.joining import NO_NCCL

_ASK = "or ask for GPUs: --gpus-per-node 1"
_KNOWN = (
    (
        re.compile(r"device_ids and output_device arguments only work"),
        "device_ids",
        f"Leave device_ids out: DistributedDataParallel(model); {_ASK}",
    ),
    (
        re.compile(f"{NO_NCCL}|doesn't have NCCL"),
        "backend",
        f"Use gloo: init_process_group('gloo'); {_ASK}",
    ),
    (
        re.compile(r"deserialize object on a CUDA device"),
        "map_location",
        f"torch.load(path, map_location='cpu'); {_ASK}",
    ),
    (
        re.compile(
            r"not compiled with CUDA|no NVIDIA (driver|GPU)|CUDA GPUs are available|"
            r"'torch\._C' has no attribute '_cuda|Invalid device id|invalid device ordinal"
        ),
        "cuda",
        f"device = 'cuda' if torch.cuda.is_available() else 'cpu'; {_ASK}",
    ),
)
"""What torch says where it lacks a GPU, the key and the fix."""


def of_device(error: BaseException) -> Finding | None:
    """Return the refusal of what needs a GPU; None for another error.

    Args:
        error: What has ended the program, in a run without GPUs.
    """
    own = own_frames(error)
    for sign, key, fix in _KNOWN if own else ():
        if sign.search(str(error)):
            place = shown((own[-1].filename, own[-1].lineno or 0))
            said = str(error).strip().partition("\n")[0].partition(", but got")[0].rstrip(".")
            what = f"{place}: it needs a GPU, and this run trains on CPUs: {said}."
            return refusal("devices", key, what, fix)
    return None
