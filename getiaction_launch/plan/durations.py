"""Durations as people read them."""

_MINUTE, _HOUR, _DAY = 60, 3600, 24 * 3600


def duration(seconds: float) -> str:
    """Write a duration with its two largest units.

    Args:
        seconds: The duration in seconds.
    """
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def age(seconds: float) -> str:
    """Write how long ago something was, or began; what lies in the future, by a clock, is now.

    Args:
        seconds: How many seconds have passed since then.
    """
    seconds = max(0, seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d"
