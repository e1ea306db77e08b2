"""Files that only grow lie on storage in segments, since no object store can append.

What was added since the last look becomes one more object: ``rank_0.log``, ``rank_0.log.000001``
and so on, whose contents, one after the other, are the file's. So each byte goes up once, where
replacing the object would send the file's beginning again each time. TensorBoard reads the
segments of an event file as event files of their own, in the order of their names.
"""

import re
import struct
from pathlib import Path

MAX_BYTES = 16 << 20
"""Of one segment, which is held in memory."""
_SEGMENT = re.compile(r"(?P<name>.+)\.(?P<number>\d{6})")


def only_grows(name: str) -> bool:
    """Whether a file of this name is only ever appended to."""
    return name.endswith(".log") or ".tfevents." in name


def segment_name(name: str, number: int) -> str:
    """The name of a file's segment; the first one has the file's own."""
    return f"{name}.{number:06d}" if number else name


def name_and_number(name: str) -> tuple[str, int]:
    """The file that an object is a segment of, and which; number 0 for what is whole."""
    match = _SEGMENT.fullmatch(name)
    if match and only_grows(match["name"]):
        return match["name"], int(match["number"])
    return name, 0


def cut(path: Path, start: int, size_bytes: int) -> int:
    """Where the segment that begins at ``start`` ends; at ``start`` where there is none yet.

    A segment of an event file ends with a whole record, since TensorBoard reads no other: 8 bytes
    of length, 4 of checksum, the data, 4 of checksum
    (https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h).
    """
    limit = min(size_bytes, start + MAX_BYTES)
    if ".tfevents." not in path.name:
        return limit
    end = start
    with path.open("rb") as file:
        while True:
            file.seek(end)
            header = file.read(8)
            if len(header) < 8:  # noqa: PLR2004 - as above
                return end
            after = end + 8 + 4 + struct.unpack("<Q", header)[0] + 4
            if after > size_bytes or (after > limit and end > start):
                return end
            end = int(after)
