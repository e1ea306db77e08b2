"""Numbers, durations, sizes and times as a page shows them; every time is in UTC."""

import math
from datetime import datetime, timezone

from getiaction_launch.plan import durations

_MINUTE = 60
_LATEST = 253402300799.0
"""The last second of the year 9999, after which Python knows no dates."""
_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000
_SMALL, _LARGE = 1e-3, 1e5


def duration(seconds: float) -> str:
    """Write a duration with its two largest units.

    Args:
        seconds: The duration in seconds.
    """
    if not math.isfinite(seconds):
        return "unknown"
    if round(seconds) < _MINUTE:
        return _short_duration(seconds)
    return durations.duration(seconds)


def _short_duration(seconds: float) -> str:
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    is_exact = seconds < 10  # noqa: PLR2004 - a second more or less is seen here
    return f"{seconds:.1f} s" if is_exact else f"{round(seconds)} s"


def moment(seconds: float | None) -> str:
    """Write a time in UTC; a dash where there is none.

    Args:
        seconds: Seconds since the epoch.
    """
    if seconds is None or not 0 < seconds < _LATEST:
        return "-"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None) -> str:
    """Write a value of a metric with four digits.

    Args:
        value: The value, which may be NaN or infinite; None for a dash.
    """
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value and (abs(value) < _SMALL or abs(value) >= _LARGE):
        return f"{value:.3g}"
    return f"{value:.4g}"


def count(value: int | None) -> str:
    """Write a whole number with its thousands apart; a dash where there is none.

    Args:
        value: The number, or None.
    """
    return "-" if value is None else f"{value:,}".replace(",", "\u202f")


def size(size_bytes: float) -> str:
    """Write the size of a file in the units of disks.

    Args:
        size_bytes: The size in bytes.
    """
    for unit in _UNITS:
        if size_bytes < _THOUSAND or unit == _UNITS[-1]:
            break
        size_bytes /= _THOUSAND
    return f"{size_bytes:.3g} {unit}"
