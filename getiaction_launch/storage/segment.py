"""Segments: files that only grow become several objects, as object stores cannot append.

Whatever was appended since the last upload becomes one more object: ``rank_0.log``,
``rank_0.log.000001`` and so on; joined in this order, they are the file. Each byte is uploaded
once, whereas replacing the object would upload the start of the file again each time. TensorBoard
reads the segments of an event file as separate event files, in the order of their names.
"""

import re
import struct
from pathlib import Path

MAX_BYTES = 16 << 20
"""Largest size of a segment, which is held in memory during its upload."""
_SEGMENT = re.compile(r"(?P<name>.+)\.(?P<number>\d{6})")


def is_curve(name: str) -> bool:
    """Whether a file with this name is one of TensorBoard's event files."""
    return ".tfevents." in name


def only_grows(name: str) -> bool:
    """Whether a file with this name is only ever appended to."""
    return name.endswith(".log") or is_curve(name)


def segment_name(name: str, number: int) -> str:
    """Return the name of a file's segment; segment 0 has the file's own name."""
    return f"{name}.{number:06d}" if number else name


def name_and_number(name: str) -> tuple[str, int]:
    """Return the name of the file that an object belongs to, and the number of the segment."""
    match = _SEGMENT.fullmatch(name)
    if match and only_grows(match["name"]):
        return match["name"], int(match["number"])
    return name, 0


def cut(path: Path, start: int, size_bytes: int) -> int:
    """Find the end of the next segment.

    A segment of an event file must end with a complete record, or TensorBoard stops reading it:
    8 bytes of length, 4 of checksum, the data, 4 of checksum
    (https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h).

    Args:
        path: The file that grows.
        start: Where the segment starts in the file, in bytes.
        size_bytes: How much of the file may be used.

    Returns:
        Where the segment ends, in bytes; ``start`` if there is nothing to upload yet.
    """
    limit = min(size_bytes, start + MAX_BYTES)
    if not is_curve(path.name):
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
