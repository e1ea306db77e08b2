"""Camera frames: read from video files by time, or decoded from stored images."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError

# An open decoder takes 1 to 4 MB at 640 x 480, and one file handle.
MAX_OPEN_VIDEOS = 64


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
            _check_length(path)
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, EOFError, IndexError) as error:
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

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, time_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Decode the frame nearest to a time.

        Args:
            time_s: Wanted presentation time, in seconds.
            tolerance_s: Largest difference between that time and the frame's own, in seconds.

        Returns:
            RGB pixels, (H, W, 3) uint8.

        Raises:
            DatasetError: The file is damaged or has no frame within the tolerance.
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
        return np.asarray(self._reformatter.reformat(frame, format="rgb24").to_ndarray(), np.uint8)

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
    When more than `max_open` are open, the least recently used one is closed.

    Args:
        max_open: Largest number of files that each process keeps open.
    """

    def __init__(self, max_open: int = MAX_OPEN_VIDEOS) -> None:
        self._max_open = max_open
        self._decoders: OrderedDict[Path, VideoDecoder] = OrderedDict()
        self._pid = os.getpid()
        self._inherited: list[object] = []

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decoders": OrderedDict(), "_inherited": []}

    def read(self, path: Path, times_s: Sequence[float], tolerance_s: float) -> NDArray[np.uint8]:
        """Decode the frames nearest to the given times.

        Args:
            path: Video file to read from.
            times_s: T presentation times in seconds, in any order.
            tolerance_s: Largest difference between a wanted time and a frame's time, in seconds.

        Returns:
            RGB pixels, (T, H, W, 3) uint8.

        Raises:
            DatasetError: The file is damaged or has no frame within the tolerance.
        """
        decoder = self._open(path)
        frames = {time_s: decoder.read(time_s, tolerance_s) for time_s in sorted(set(times_s))}
        return np.stack([frames[time_s] for time_s in times_s])

    def _open(self, path: Path) -> VideoDecoder:
        if self._pid != os.getpid():
            # Inherited decoders are kept, because closing them would change the parent's state.
            self._inherited.append(self._decoders)
            self._decoders = OrderedDict()
            self._pid = os.getpid()
        if path not in self._decoders:
            while len(self._decoders) >= self._max_open:
                self._decoders.popitem(last=False)[1].close()
            self._decoders[path] = VideoDecoder(path)
        self._decoders.move_to_end(path)
        return self._decoders[path]


def _check_length(path: Path) -> None:
    """Raise EOFError if an mp4 file is shorter than its boxes declare (ISO/IEC 14496-12, 4.2).

    FFmpeg opens a truncated file if its index comes first, and fails only at a missing frame.
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
        while is_mp4 and position < size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a 64-bit length follows the type
                length = int.from_bytes(header[8:], "big")
            if length == 0:  # the last box extends to the end of the file
                return
            position += max(length, 8)
    if position > size:
        msg = f"it is truncated: {size} bytes of at least {position}"
        raise EOFError(msg)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG image.

    Args:
        data: Content of the image file.

    Returns:
        Pixels, (H, W, C) uint8; C is 1 for grey images, 4 for images with transparency, otherwise
        3.

    Raises:
        DatasetError: The content is not PNG or JPEG, or is damaged.
    """
    codec: Literal["png", "mjpeg"] = "png" if data.startswith(b"\x89PNG") else "mjpeg"
    try:
        frame = av.CodecContext.create(codec, "r").decode(av.Packet(data))[0]
    except (av.FFmpegError, IndexError) as error:
        msg = f"not a readable PNG or JPEG image ({error})"
        raise DatasetError(msg) from error
    pixel_format = frame.format.name if frame.format.name in {"gray", "rgba"} else "rgb24"
    pixels = np.asarray(frame.to_ndarray(format=pixel_format), np.uint8)
    return pixels.reshape(frame.height, frame.width, -1)
