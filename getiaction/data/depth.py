"""Depth cameras: how lerobot marks them, and the distances that their videos encode.

lerobot quantises a depth map to codes of 12 bits before it is encoded as a video, linearly or in
the logarithm of the distance, and stores the parameters with the feature in `meta/info.json`
(https://huggingface.co/docs/lerobot/video_encoding_parameters).
"""

import math
from typing import Any, Literal

import torch

from getiaction.data.errors import DatasetError

DepthUnit = Literal["mm", "m"]

CODE_BITS = 12
MAX_CODE = 2**CODE_BITS - 1
MAX_MILLIMETRES = 2**16 - 1
MILLIMETRES = {"mm": 1.0, "m": 1000.0}
# Where a dataset does not have a parameter, lerobot's default applies. Distances are in metres.
DEFAULTS = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}


def is_depth(feature: dict[str, Any]) -> bool:
    """Return whether a feature is a depth camera, by any of the marks that lerobot has used.

    Args:
        feature: Description of the feature, as in `meta/info.json`.
    """
    info = _info(feature)
    older = feature.get("video_info")
    return bool(
        info.get("is_depth_map")
        or info.get("video.is_depth_map")
        or (isinstance(older, dict) and older.get("video.is_depth_map"))
    )


def stored_unit(feature: dict[str, Any]) -> str | None:
    """Return the unit of a depth camera's stored images and statistics; None if it is unknown.

    Args:
        feature: Description of the feature, as in `meta/info.json`.
    """
    return _info(feature).get("depth_unit")


def unit_factor(feature: dict[str, Any], unit: DepthUnit) -> float:
    """Return what a depth camera's stored values are multiplied by to be in a unit.

    Args:
        feature: Description of the feature, as in `meta/info.json`.
        unit: Unit of the result, "mm" or "m".

    Returns:
        The factor; 1.0 if the stored unit is unknown.
    """
    stored = stored_unit(feature)
    return 1.0 if stored is None or stored == unit else MILLIMETRES[stored] / MILLIMETRES[unit]


def check_depth(place: str, key: str, feature: dict[str, Any]) -> None:
    """Check the parameters of a depth camera.

    Args:
        place: Path of the file that describes the feature, for the message.
        key: Key of the feature.
        feature: Description of the feature, as in `meta/info.json`.

    Raises:
        DatasetError: The unit is unknown, or the parameters define no distances.
    """
    unit = stored_unit(feature)
    if unit is not None and unit not in MILLIMETRES:
        msg = f'{place}: depth_unit of "{key}" is {unit!r}. Write "mm" or "m".'
        raise DatasetError(msg)
    try:
        low, high, shift, use_log = _parameters(feature)
        valid = low < high < math.inf and (low + shift > 0 or not use_log)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        stored = {name: _info(feature).get(f"video.{name}") for name in DEFAULTS}
        msg = (
            f'{place}: the depth parameters of "{key}" are {stored}, but video.depth_min must be '
            "below video.depth_max, and video.depth_min + video.shift above 0. Write those that "
            "the video was recorded with."
        )
        raise DatasetError(msg)


def codes_to_depth(
    codes: torch.Tensor, feature: dict[str, Any], unit: DepthUnit = "mm"
) -> torch.Tensor:
    """Convert the codes of a depth video to distances, as lerobot does, bit for bit.

    Args:
        codes: Codes from 0 to 4095, of any shape and integer type.
        feature: Description of the feature, as in `meta/info.json`.
        unit: Unit of the result, "mm" (whole millimetres) or "m".

    Returns:
        Distances from the camera, float32 of the same shape.
    """
    low, high, shift, use_log = _parameters(feature)
    first, last = (math.log(low + shift), math.log(high + shift)) if use_log else (low, high)
    metres = codes.to(torch.float32).mul_((last - first) / MAX_CODE).add_(first)
    if use_log:
        metres.exp_().sub_(shift)
    metres.clamp_(low, high)
    if unit == "m":
        return metres
    return metres.mul_(MILLIMETRES["m"]).round_().clamp_(0, MAX_MILLIMETRES)


def _parameters(feature: dict[str, Any]) -> tuple[float, float, float, bool]:
    stored = {name: _info(feature).get(f"video.{name}") for name in DEFAULTS}
    chosen = {name: DEFAULTS[name] if value is None else value for name, value in stored.items()}
    low, high, shift = (float(chosen[name]) for name in ("depth_min", "depth_max", "shift"))
    return low, high, shift, bool(chosen["use_log"])


def _info(feature: dict[str, Any]) -> dict[str, Any]:
    info = feature.get("info")
    return info if isinstance(info, dict) else {}
