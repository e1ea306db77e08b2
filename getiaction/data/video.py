"""Camera frames, read from video files by time."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from getiaction.data.depth import CODE_BITS
from getiaction.data.errors import DatasetError
from getiaction.data.machine import memory_share_bytes, open_file_limit

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# An open decoder takes 1 to 4 MB at 640 x 480, for the pictures that others refer to.
BYTES_PER_PIXEL = 13


# Loader processes are the threads of a reader. PyAV 17 and later would start one per CPU of the
# machine for each open video; earlier ones know neither these threads nor the argument.
SCALING = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # noqa: PLR2004 - see above


class VideoDecoder:
    """One open video file.

    Frames are found by their presentation time, not by counting, because a file may start at any
    time and may hold several episodes.

    Args:
        path: Video file to open, of any format that FFmpeg reads.

    Raises:
        DatasetError: The file cannot be opened as a video.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            check_length(path)
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise self._damaged(error) from error
        # A single thread, because loader workers provide the parallelism, and a decoder that has no
        # threads can be inherited by a forked process.
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self._period_s = 1 / float(rate) if rate else 1 / 30
        self._time_base_s = float(self._stream.time_base or 1)
        self._reformatter = VideoReformatter()
        self._ahead: Iterator[av.VideoFrame] = iter(())
        self._frame: av.VideoFrame | None = None
        self._time_s = 0.0
        self._seek_cost_frames = 1.0

    @property
    def memory_bytes(self) -> int:
        """Memory that the decoder takes while it is open, estimated by the size of its pictures."""
        return (
            BYTES_PER_PIXEL * self._stream.codec_context.width * self._stream.codec_context.height
        )

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, time_s: float, tolerance_s: float, *, depth: bool = False) -> Pixels:
        """Decode the frame nearest to a time.

        Args:
            time_s: Wanted presentation time, in seconds.
            tolerance_s: Largest difference between that time and the frame's own, in seconds.
            depth: Whether the video is one of depth codes.

        Returns:
            RGB pixels, (H, W, 3) uint8; for depth the codes, (H, W, 1) uint16 from 0 to 4095.

        Raises:
            DatasetError: The file is damaged, has no frame within the tolerance, or its pixels do
                not have the bits for what is read.
        """
        try:
            frame, found_s = self._find(time_s, min(tolerance_s, self._period_s / 2))
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(error) from error
        if frame is None or abs(found_s - time_s) >= tolerance_s:
            nearest = "no frame at all" if frame is None else f"one at {found_s:.6f} s"
            msg = (
                f"{self._path} has no frame at {time_s:.6f} s: the nearest is {nearest}, and "
                f"tolerance_s is {tolerance_s}. If the file was truncated, download or copy it "
                "again; if its times are merely imprecise, pass a larger tolerance_s."
            )
            raise DatasetError(msg)
        self._check_bits(frame, depth=depth)
        if not depth:
            colours = self._reformatter.reformat(frame, format="rgb24", **SCALING).to_ndarray()
            pixels: NDArray[np.uint8] = np.asarray(colours, np.uint8)
            return pixels
        plane = memoryview(
            self._reformatter.reformat(frame, format="gray12le", **SCALING).planes[0]
        )
        rows: NDArray[np.uint16] = np.frombuffer(plane, np.uint16).reshape(frame.height, -1)
        codes: NDArray[np.uint16] = rows[:, : frame.width, None].copy()
        return codes

    def _check_bits(self, frame: av.VideoFrame, *, depth: bool) -> None:
        bits, name = frame.format.components[0].bits, frame.format.name
        if depth and bits != CODE_BITS:
            msg = (
                f"{self._path} is marked as a depth map, but its pixels ({name}) have {bits} bits, "
                f'and depth codes have {CODE_BITS}. Write "is_depth_map": false in '
                "meta/info.json if it shows colours; otherwise record or encode it again."
            )
            raise DatasetError(msg)
        if not depth and len(frame.format.components) == 1 and bits > np.iinfo(np.uint8).bits:
            msg = (
                f"{self._path} has pixels of {bits} bits ({name}), which would lose precision as "
                'RGB. If it is a depth map, write "info": {"is_depth_map": true} into its feature '
                "in meta/info.json; otherwise encode it again with 8 bits."
            )
            raise DatasetError(msg)

    def _find(self, time_s: float, precision_s: float) -> tuple[av.VideoFrame | None, float]:
        """Return the frame nearest to `time_s` and its time, without seeking if it is close."""
        frames_ahead = (time_s - self._time_s) / self._period_s
        if self._frame is None or not 0 < frames_ahead + 0.5 < self._seek_cost_frames + 1:
            self._seek(time_s, precision_s)
        previous, previous_s = None, 0.0
        while self._frame is not None and self._time_s < time_s - precision_s:
            previous, previous_s = self._frame, self._time_s
            self._advance()
        if previous and (
            self._frame is None or abs(previous_s - time_s) < abs(self._time_s - time_s)
        ):
            return previous, previous_s
        return self._frame, self._time_s

    def _seek(self, time_s: float, precision_s: float) -> None:
        """Move to the last key frame at or before a time, or to the first frame of the file."""
        target = round((time_s + precision_s) / self._time_base_s)
        for start in (target, 0):
            self._container.seek(start, stream=self._stream)
            self._ahead = self._container.decode(self._stream)
            self._advance()
            # FFmpeg seeks by decoding time, and a key frame may be presented after the target
            # although it is decoded before it.
            if self._frame is not None and self._time_s <= time_s + precision_s:
                break
        key_frame_distance = max(0.0, (time_s - self._time_s) / self._period_s)
        self._seek_cost_frames += 0.2 * (1 + key_frame_distance - self._seek_cost_frames)

    def _advance(self) -> None:
        self._frame = next(self._ahead, None)
        if self._frame is not None and self._frame.pts is not None:
            self._time_s = self._frame.pts * self._time_base_s

    def _damaged(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"{self._path} cannot be decoded ({error}). Download or copy the file again."
        )


class VideoReader:
    """Reads frames of many video files and keeps their decoders open.

    Processes must not share a decoder: in a forked loader worker it would move the file position of
    the parent. Each process therefore opens decoders on first use, and pickles do not include them.
    The least recently used ones are closed when their number or memory exceeds a limit. Datasets
    in the format v2.1 have one file for each episode and camera, of which samples are drawn at
    random, so as many as possible stay open.

    Args:
        max_open: Largest number of files that this reader keeps open in each process; None takes a
            quarter of those that the process may open.
        max_bytes: Memory that their decoders may take in each process; None takes a share of the
            memory that is free when the first one is opened.
    """

    def __init__(self, max_open: int | None = None, max_bytes: int | None = None) -> None:
        self._limits = max_open, max_bytes
        self._begin()
        self._inherited: list[object] = []

    def _begin(self) -> None:
        self._decoders: OrderedDict[Path, VideoDecoder] = OrderedDict()
        self._pid, self._memory_bytes = os.getpid(), 0
        self._max_open, self._max_bytes = self._limits

    def __getstate__(self) -> dict[str, object]:
        return {"_limits": self._limits}

    def __setstate__(self, state: dict[str, tuple[int | None, int | None]]) -> None:
        self.__init__(*state["_limits"])  # type: ignore[misc] # it is a new reader of its process

    def read(self, path: Path, time_s: float, tolerance_s: float, *, depth: bool = False) -> Pixels:
        """Decode the frame of a file that is nearest to a time.

        Args:
            path: Video file to read from.
            time_s: Argument of `VideoDecoder.read` of that name.
            tolerance_s: Argument of `VideoDecoder.read` of that name.
            depth: Argument of `VideoDecoder.read` of that name.

        Returns:
            What `VideoDecoder.read` returns.

        Raises:
            DatasetError: As `VideoDecoder.read` raises it, or the file cannot be opened.
        """
        return self._open(path).read(time_s, tolerance_s, depth=depth)

    def _open(self, path: Path) -> VideoDecoder:
        if self._pid != os.getpid():
            # Inherited decoders are kept, because closing them would change the parent's state.
            self._inherited.append(self._decoders)
            self._begin()
        if path not in self._decoders:
            self._decoders[path] = VideoDecoder(path)
            self._memory_bytes += self._decoders[path].memory_bytes
            self._close_oldest()
        self._decoders.move_to_end(path)
        return self._decoders[path]

    def _close_oldest(self) -> None:
        """Close files until the limits are met, but not the one that was opened last."""
        if self._max_open is None:
            self._max_open = open_file_limit()
        if self._max_bytes is None:
            self._max_bytes = memory_share_bytes()
        while len(self._decoders) > 1 and (
            len(self._decoders) > self._max_open or self._memory_bytes > self._max_bytes
        ):
            decoder = self._decoders.popitem(last=False)[1]
            self._memory_bytes -= decoder.memory_bytes
            decoder.close()


def check_length(path: Path) -> None:
    """Check that a video file is not empty and not shorter than its own structure says.

    FFmpeg opens a truncated file if its index comes first, and fails only at a missing frame. Only
    mp4 files say how long they are (ISO/IEC 14496-12, 4.2).

    Args:
        path: Video file of any format.

    Raises:
        DatasetError: The file is empty or truncated.
    """
    size, position, kinds = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
        while is_mp4 and position < size:
            file.seek(position)
            header = file.read(16)
            kinds.add(header[4:8])
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a 64-bit length follows the type
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # the last box extends to the end of the file
                length = size - position
            position += max(length, 8)
    cause = ""
    if not size:
        cause = "it is empty"
    elif position > size:
        cause = f"it is truncated: {size} bytes of at least {position}"
    elif is_mp4 and b"moov" not in kinds:
        cause = "it is truncated: its index is missing"
    if cause:
        msg = f"{path} cannot be decoded ({cause}). Download or copy the file again."
        raise DatasetError(msg)
