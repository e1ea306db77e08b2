"""What a trial must not write is refused by the kernel, too, where it can: also to compiled code.

Landlock, in Linux since 5.13, lets any process give up rights for itself and all that it starts.
https://docs.kernel.org/userspace-api/landlock.html
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_BENEATH = 1
_NO_NEW_PRIVILEGES = 38  # prctl(2)
_WRITING = sum(1 << bit for bit in (1, *range(4, 13)))
"""Writing to files, and creating and removing entries of directories."""
_OF_FILES = 1 << 1 | 1 << 14
"""Rights that there are for a file: writing, and truncating."""
_SINCE = {2: 1 << 13, 3: 1 << 14}
"""Rights that later versions know: moving to another directory, and truncating."""


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("directory", ctypes.c_int32))


def forbid_writing(allowed: Iterable[Path]) -> bool:
    """Give up writing to other files than these, in this thread and what it starts.

    Args:
        allowed: Files and directories that may be written to.

    Returns:
        Whether the kernel now refuses it; not if it is too old, or has Landlock turned off.
    """
    if sys.platform != "linux":
        return False
    system = ctypes.CDLL(None, use_errno=True).syscall
    version = system(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    rights = _WRITING | sum(right for since, right in _SINCE.items() if version >= since)
    handled = ctypes.c_uint64(rights)
    rules = system(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if rules < 0:
        return False
    try:
        for path in allowed:
            with contextlib.suppress(OSError), _opened(path) as descriptor:
                given = rights if path.is_dir() else rights & _OF_FILES
                rule = _Beneath(given, descriptor)
                system(_ADD_RULE, rules, _BENEATH, ctypes.byref(rule), 0)
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(system(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
