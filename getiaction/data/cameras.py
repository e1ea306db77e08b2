"""The cameras of a dataset: stored images and video frames as the tensors of samples."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from getiaction.data.batch import ByteImages, empty_pixels
from getiaction.data.depth import DepthUnit, codes_to_depth, unit_factor
from getiaction.data.errors import DatasetError
from getiaction.data.frame_cache import VARIABLE, FrameCache
from getiaction.data.image import decode_image
from getiaction.data.machine import limit_bytes, memory_share_bytes
from getiaction.data.metadata import Episode, Metadata
from getiaction.data.on_demand import OnDemandFiles
from getiaction.data.rows import odd_times, read_rows
from getiaction.data.stats import channel_first_shape
from getiaction.data.video import VideoReader, check_length

MAX_SAMPLED_IMAGES = 50
MAX_CHECKED_AT_ONCE = 16


class CameraReader:
    """Reads the images of all cameras of a dataset.

    Args:
        metadata: Metadata of the dataset.
        columns: Columns of the rows by key, with those of stored images.
        tolerance_s: Largest difference between a wanted time and a frame's time, in seconds.
        depth_unit: Unit of the images of depth cameras, "mm" or "m".
        image_size: Height and width that images of 8 bits are resized to; None keeps theirs.
        on_demand: Videos that are not on this machine yet.
    """

    def __init__(
        self,
        metadata: Metadata,
        columns: Mapping[str, Any],
        tolerance_s: float,
        depth_unit: DepthUnit,
        image_size: Sequence[int] | None,
        *,
        on_demand: OnDemandFiles,
    ) -> None:
        self._metadata = metadata
        self._on_demand = on_demand
        self._features = metadata.features
        self._columns = columns
        self._rows = read_rows(metadata.root, columns)
        self._tolerance_s = tolerance_s
        self._depth_unit: DepthUnit = depth_unit
        self._image_size = None if image_size is None else tuple(image_size)
        self._depth_keys = metadata.depth_keys
        self._videos = VideoReader()
        self._has_videos = False
        self._found: dict[str, tuple[int, bool]] = {}
        self._frames = FrameCache({}, 0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}  # columns that are mapped stay on their disk

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = read_rows(self._metadata.root, self._columns)

    def check(self, kept: NDArray[np.bool_], *, with_videos: bool) -> None:
        """Read one image of each camera, and the frames of rows that have an unusual time.

        Args:
            kept: Whether each row is kept.
            with_videos: Whether the video files are there.

        Raises:
            DatasetError: An image cannot be read or does not fit its description.
        """
        self._has_videos = with_videos
        first = np.array([np.argmax(kept)])
        self.wait_for(first)
        if with_videos:
            for row in odd_times(self._rows, self._metadata.fps, self._tolerance_s, kept):
                for key in self._metadata.video_keys:
                    self._check_time(key, row)
        for key in self._metadata.camera_keys:
            if key in self._columns or with_videos:
                image = self.read_batch(key, first)
                self._found[key] = math.prod(image.shape), isinstance(image, ByteImages)
        if limit := limit_bytes(VARIABLE, 0):
            images = {key: self._decode(key, int(first[0])) for key in self._found}
            limit = min(limit, 2 * memory_share_bytes())  # half of what is free, and not more
            self._frames = FrameCache(images, len(kept), limit)
        self._videos = VideoReader()  # forked loader processes should not inherit open decoders

    def image_bytes(self, *, as_float: bool) -> dict[str, int]:
        """Return how much memory an image of each camera takes in a batch, in bytes.

        Args:
            as_float: Whether images of 8 bits become float32, too.
        """
        return {
            key: numbers * (1 if is_bytes and not as_float else 4)
            for key, (numbers, is_bytes) in self._found.items()
        }

    @property
    def lacks_videos(self) -> bool:
        """Whether there are videos that this process has not seen on this machine yet."""
        return bool(self._on_demand.absent)

    def wait_for(self, rows: NDArray[np.int64]) -> None:
        """Download the videos of some rows that are missing, several at a time.

        Args:
            rows: Numbers of rows, (N,).

        Raises:
            DatasetError: A video cannot be downloaded.
        """
        if self.lacks_videos:
            self._on_demand.wait_for(self._videos_of(rows))

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Have videos that are missing downloaded in the background.

        Args:
            rows: Numbers of rows in the order in which they will be read, (N,).
        """
        self._on_demand.expect(self._videos_of(rows))

    def _videos_of(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Return the videos of rows in the order in which they are needed first."""
        episodes = self._rows.episode[rows]
        _, firsts = np.unique(episodes, return_index=True)
        for episode in episodes[np.sort(firsts)].tolist():
            yield from (name for name, _ in self._metadata.episodes[episode].videos.values())

    def read_image(self, key: str, row: int) -> torch.Tensor:
        """Read the stored image of a row.

        Args:
            key: Key of the camera.
            row: Number of the row.

        Returns:
            The image, (C, H, W) float32: colours in [0, 1], depth in the reader's unit.

        Raises:
            DatasetError: The image cannot be read or does not fit its description.
        """
        image = self._to_tensor(key, self._decode(key, row))
        if key in self._depth_keys:
            image *= unit_factor(self._features[key], self._depth_unit)
        return image

    def read_video(self, key: str, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """Read the video frames of some rows of one episode.

        Args:
            key: Key of the camera.
            rows: Numbers of T rows.

        Returns:
            The frames, (T, C, H, W) float32, or (C, H, W) if T is 1: colours in [0, 1], depth in
            the reader's unit.

        Raises:
            DatasetError: A frame cannot be read or does not fit its description.
        """
        frames = {row: self._decode(key, row) for row in sorted({int(row) for row in rows})}
        stacked: NDArray[Any] = np.stack([frames[int(row)] for row in rows])
        return self._to_tensor(key, stacked).squeeze(0)

    def read_batch(self, key: str, rows: NDArray[np.int64]) -> ByteImages | torch.Tensor:
        """Read the images of some rows, each one once, and in the order of the files.

        Args:
            key: Key of the camera.
            rows: Numbers of rows, an array of any shape.

        Returns:
            The images, (*rows.shape, C, H, W): colours of 8 bits as bytes, everything else as
            `read_image` and `read_video` return it.

        Raises:
            DatasetError: An image cannot be read or does not fit its description.
        """
        distinct, places = np.unique(rows, return_inverse=True)
        places = places.reshape(-1)
        batch: torch.Tensor | None = None
        for number, row in enumerate(distinct.tolist() if key not in self._depth_keys else ()):
            pixels = self._decode(key, row)
            if batch is None:
                batch = empty_pixels(rows.size, pixels)
            if pixels.dtype != np.uint8 or pixels.shape != batch.shape[1:]:
                batch = None
                break
            for place in np.flatnonzero(places == number):
                batch.numpy()[place] = pixels
        if batch is not None:
            return ByteImages(batch.view(*rows.shape, *batch.shape[1:]))
        images = torch.stack([self._read(key, row) for row in distinct.tolist()])
        return images[torch.from_numpy(places)].view(*rows.shape, *images.shape[1:])

    def sample(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read some images of a camera, evenly spaced over some rows.

        Args:
            key: Key of the camera.
            rows: Numbers of the rows, in ascending order.

        Returns:
            At most 50 images, (N, C, H, W).

        Raises:
            DatasetError: The camera's videos are not there.
        """
        if key not in self._columns and not self._has_videos:
            msg = (
                f'meta/ has no usable statistics of camera "{key}", and without its videos they '
                "cannot be computed. Pass download_videos=True."
            )
            raise DatasetError(msg)
        places = np.linspace(0, len(rows) - 1, MAX_SAMPLED_IMAGES).round().astype(np.int64)
        chosen = rows[np.unique(places)]
        self.wait_for(chosen)
        return np.stack([self._read(key, row).numpy() for row in chosen.tolist()])

    def _read(self, key: str, row: int) -> torch.Tensor:
        return self.read_image(key, row) if key in self._columns else self.read_video(key, [row])

    def _check_time(self, key: str, row: int) -> None:
        rows, fps = self._rows, self._metadata.fps
        try:
            self.read_video(key, [row])
        except DatasetError as error:
            msg = (
                f'{rows.root / "data"}: "timestamp" of {rows.place(row)} is '
                f"{rows.times_s[row]:.6f} s, but frame_index / fps is "
                f"{rows.frame[row] / fps:.6f} s, and the video has no frame there. "
                f"Write timestamp = frame_index / {fps}, or the times of the frames in the video. "
                f"{error}"
            )
            raise DatasetError(msg) from error

    def _decode(self, key: str, row: int) -> NDArray[Any]:
        """Return the image of a row, (H, W, C), from the cache or its file."""
        pixels = self._frames.read(key, row)
        if pixels is None:
            pixels = self._resize(self._decode_whole(key, row))
            self._frames.write(key, row, pixels)
        return pixels

    def _resize(self, pixels: NDArray[Any]) -> NDArray[Any]:
        size = self._image_size
        if size in {None, pixels.shape[:2]} or pixels.dtype != np.uint8:
            return pixels
        # Not by the decoder, whose filters would change pixels by 30 and more of 255.
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        resized = interpolate(image, size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()

    def _decode_whole(self, key: str, row: int) -> NDArray[Any]:
        """Decode the image of a row in its own size, and check its shape."""
        if key in self._columns:
            try:
                pixels: NDArray[Any] = decode_image(self._columns[key][row].as_py())
            except DatasetError as error:
                msg = (
                    f'{self._metadata.root}: "{key}" of frame {row}: {error}. '
                    "Download or copy the data again."
                )
                raise DatasetError(msg) from error
            self._check_shape(key, pixels, f"frame {row}")
            return pixels
        name, start_s = self._metadata.episodes[int(self._rows.episode[row])].videos[key]
        time_s = float(start_s + self._rows.times_s[row])
        path, depth = self._metadata.root / name, key in self._depth_keys
        self._on_demand.wait_for([name])
        pixels = self._videos.read(path, time_s, self._tolerance_s, depth=depth)
        self._check_shape(key, pixels, name)
        return pixels

    def _check_shape(self, key: str, pixels: NDArray[Any], place: str) -> None:
        channels, *promised = channel_first_shape(self._features[key])
        found = pixels.shape[-3:-1]
        problem = ""
        if sorted(found) != sorted(promised):  # some datasets declare width before height
            problem = f"have height and width {list(found)}, but meta/info.json declares {promised}"
        elif pixels.shape[-1] != channels:
            problem = f"have {pixels.shape[-1]} channels, but meta/info.json declares {channels}"
        if problem:
            msg = (
                f'{self._metadata.root}: the images of "{key}" ({place}) {problem}. '
                "Correct the shape there."
            )
            raise DatasetError(msg)

    def _to_tensor(self, key: str, pixels: NDArray[Any]) -> torch.Tensor:
        """Turn pixels (..., H, W, C) into float32 (..., C, H, W), colours in [0, 1]."""
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)))
        if pixels.dtype == np.uint16:
            return codes_to_depth(tensor, self._features[key], self._depth_unit)
        tensor = tensor.to(torch.float32)
        return tensor.div_(255) if pixels.dtype == np.uint8 else tensor


def check_videos(root: Path, episodes: Iterable[Episode], absent: Collection[str] = ()) -> None:
    """Check that the videos of episodes are there, and not shorter than they should be.

    Args:
        root: Local folder of the dataset.
        episodes: Episodes whose videos are needed.
        absent: Videos that need not be there yet, as they are downloaded on demand.

    Raises:
        DatasetError: A video is missing, empty or truncated.
    """
    names = {name for episode in episodes for name, _ in episode.videos.values()} - set(absent)
    found = (root / "videos").rglob("*") if names else ()
    unlisted = names - {path.relative_to(root).as_posix() for path in found}
    # A listing is quick on network file systems, but does not follow linked folders.
    missing = sorted(name for name in unlisted if not (root / name).is_file())
    if missing:
        msg = (
            f"{root / missing[0]} is missing ({len(missing)} of {len(names)} videos are). "
            "Download or copy the dataset again, or read it without videos: "
            "download_videos=False."
        )
        raise DatasetError(msg)
    with ThreadPoolExecutor(MAX_CHECKED_AT_ONCE) as threads:
        for _ in threads.map(check_length, [root / name for name in sorted(names)]):
            pass
