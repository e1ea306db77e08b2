"""LeRobotDataset: reads robot data in LeRobot's formats v2.1 and v3.0, without lerobot."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from getiaction.data.columns import load_columns
from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Episode
from getiaction.data.source import Source, fetch_dataset
from getiaction.data.stats import FeatureStats, channel_first_shape, policy_stats
from getiaction.data.video import VideoReader, decode_image

MAX_FPS_ERROR = 0.05


class LeRobotDataset(Dataset[dict[str, Any]]):
    """The frames of recorded episodes, each with the neighbouring frames that a policy needs.

    Sample `i` is a dict, equal to the one that lerobot's class of the same name returns: each
    feature is a tensor (floats as float32, integers as int64), cameras are (3, H, W) float32 in
    [0, 1], and "task" is text. A feature with T frame offsets is stacked to (T, ...). Offsets that
    leave the episode repeat its first or last frame, and "<key>_is_pad", (T,) bool, marks them. As
    in lerobot, a video with a single offset is not stacked.

    Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Rows are held in memory, stored
    images included; videos are decoded when a sample is read. The dataset is not thread-safe, but
    loader workers of any start method can share it.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL (`s3://`, `hf://`, `memory://`...) of the dataset. Remote
            files are copied once to the cache (`GETIACTION_CACHE`). Together with `repo_id`, it is
            the folder to read if it exists, and to download into otherwise.
        episodes: Indices of the episodes to read; None reads all. Samples keep the files' order.
        image_transforms: Function that is applied to each camera tensor, (3, H, W) in [0, 1].
        delta_timestamps: Offsets in seconds to stack, by feature key; multiples of 1/fps.
        tolerance_s: Largest difference between a wanted time and a frame's time, in seconds.
        revision: Branch, tag or commit of `repo_id`; None takes the newest supported format.
        force_cache_sync: Whether to download remote files again that are already cached.
        download_videos: Whether to download videos; without them, samples cannot be read.
        use_imagenet_stats: Whether `stats` has ImageNet's mean and std for RGB cameras.

    Attributes:
        repo_id: The `repo_id` argument, unchanged.
        root: Local folder that the files are read from.
        episodes: The `episodes` argument as a list; None for all episodes.
        features: Description of each feature by key, as in `meta/info.json`.
        fps: Frames per second of every episode.
        stats: Type, shape and statistics of each feature by key, as described in `PolicyDataset`.

    Raises:
        DatasetError: The dataset or an argument is invalid; the message names the file or value.
    """

    def __init__(  # noqa: PLR0917 - lerobot's signature
        self,
        repo_id: str | None = None,
        root: str | os.PathLike[str] | None = None,
        episodes: Sequence[int] | None = None,
        image_transforms: Callable[[torch.Tensor], torch.Tensor] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        force_cache_sync: bool = False,
        download_videos: bool = True,
        *,
        use_imagenet_stats: bool = True,
    ) -> None:
        self.repo_id = repo_id
        self.image_transforms = image_transforms
        self.tolerance_s = tolerance_s
        self.episodes = None if episodes is None else plain_episodes(episodes)
        source = Source(repo_id, root, revision, refresh=force_cache_sync)
        self._metadata = fetch_dataset(source, self.episodes, download_videos=download_videos)
        self.root = self._metadata.root
        self.features = self._metadata.features
        self.fps = self._metadata.fps
        if download_videos:
            self._check_videos()
        self._columns = load_columns(self._data_files(), self.features, self.episodes)
        self._bounds = self._find_bounds()
        self._check_rows()
        numbers = {k: c for k, c in self._columns.items() if isinstance(c, np.ndarray)}
        self.stats: dict[str, FeatureStats] = policy_stats(
            self.features,
            self._metadata.stats,
            numbers,
            use_imagenet_stats=use_imagenet_stats,
        )
        self._videos = VideoReader()
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self.delta_indices = None
        if delta_timestamps is not None:
            self.delta_indices = self._to_offsets(delta_timestamps)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def num_frames(self) -> int:
        """Number of frames in the episodes that are read."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """Number of episodes that are read."""
        return len(self._metadata.episodes if self.episodes is None else self.episodes)

    @property
    def delta_indices(self) -> dict[str, list[int]] | None:
        """Frame offsets that a sample stacks, by feature key; None stacks nothing.

        Raises:
            DatasetError: A key that is set is not a feature, or its list of offsets is empty.
        """
        return {key: offsets.tolist() for key, offsets in self._offsets.items()} or None

    @delta_indices.setter
    def delta_indices(self, delta_indices: Mapping[str, Sequence[int]] | None) -> None:
        delta_indices = delta_indices or {}
        for key, offsets in delta_indices.items():
            self._check_feature(key, "delta_indices")
            if not len(offsets):
                msg = f'delta_indices["{key}"] is empty. Use offsets such as [0], or omit the key.'
                raise DatasetError(msg)
        self._offsets = {
            key: np.array([operator.index(offset) for offset in offsets], dtype=np.int64)
            for key, offsets in delta_indices.items()
        }

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            msg = f"index {row} is out of range: the dataset has {len(self)} frames"
            raise IndexError(msg)
        row %= len(self)
        first, end = self._bounds[row]
        rows, pads = {}, {}
        for key, offsets in self._offsets.items():
            wanted = row + offsets
            rows[key] = np.clip(wanted, first, end - 1)
            pads[f"{key}_is_pad"] = torch.from_numpy((wanted < first) | (wanted >= end))
        item: dict[str, Any] = {
            key: self._video_frames(key, rows.get(key, [row])) for key in self._metadata.video_keys
        }
        for key in self._columns:
            item[key] = self._stack(key, rows[key]) if key in rows else self._value(key, row)
        item |= pads
        if self.image_transforms is not None:
            for key in self._metadata.camera_keys:
                item[key] = self.image_transforms(item[key])
        item["task"] = self._metadata.tasks[int(self._columns["task_index"][row])]
        if self._metadata.subtasks is not None:
            item["subtask"] = self._metadata.subtasks[int(self._columns["subtask_index"][row])]
        return item

    def _value(self, key: str, row: int) -> torch.Tensor | str:
        column = self._columns[key]
        if isinstance(column, np.ndarray):
            return torch.tensor(column[row])
        if self.features[key]["dtype"] == "image":
            return self._image(key, row)
        text: str = column[row].as_py()
        return text

    def _stack(self, key: str, rows: NDArray[np.int64]) -> torch.Tensor | list[str]:
        column = self._columns[key]
        if isinstance(column, np.ndarray):
            return torch.from_numpy(column[rows])
        if self.features[key]["dtype"] == "image":
            return torch.stack([self._image(key, int(row)) for row in rows])
        return [column[int(row)].as_py() for row in rows]

    def _image(self, key: str, row: int) -> torch.Tensor:
        try:
            pixels = decode_image(self._columns[key][row].as_py())
        except DatasetError as error:
            msg = f'{self.root}: "{key}" of frame {row}: {error}. Download or copy the data again.'
            raise DatasetError(msg) from error
        return self._to_tensor(key, pixels, f"frame {row}")

    def _video_frames(self, key: str, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        episode = int(self._columns["episode_index"][rows[0]])
        name, start_s = self._metadata.episodes[episode].videos[key]
        times_s = (start_s + self._columns["timestamp"][rows].astype(np.float64)).tolist()
        frames = self._videos.read(self.root / name, times_s, self.tolerance_s)
        return self._to_tensor(key, frames, name).squeeze(0)

    def _to_tensor(self, key: str, pixels: NDArray[np.uint8], place: str) -> torch.Tensor:
        """Turn (..., H, W, C) uint8 into (..., C, H, W) float32 in [0, 1]."""
        found, promised = pixels.shape[-3:-1], channel_first_shape(self.features[key])[1:]
        if sorted(found) != sorted(promised):  # some datasets declare width before height
            msg = (
                f'{self.root}: the images of "{key}" ({place}) have height and width '
                f"{list(found)}, but meta/info.json declares {promised}. Correct the shape there."
            )
            raise DatasetError(msg)
        tensor = torch.from_numpy(pixels).movedim(-1, -3)
        return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _chosen(self) -> dict[int, Episode]:
        listed = self._metadata.episodes
        return listed if self.episodes is None else {e: listed[e] for e in self.episodes}

    def _check_videos(self) -> None:
        names = {name for episode in self._chosen().values() for name, _ in episode.videos.values()}
        found = (self.root / "videos").rglob("*") if names else ()
        unlisted = names - {path.relative_to(self.root).as_posix() for path in found}
        # A listing is quick on network file systems, but does not follow linked folders.
        missing = sorted(name for name in unlisted if not (self.root / name).is_file())
        if missing:
            msg = (
                f"{self.root / missing[0]} is missing ({len(missing)} of {len(names)} videos are). "
                "Download or copy the dataset again, or read it without videos: "
                "download_videos=False."
            )
            raise DatasetError(msg)

    def _data_files(self) -> list[Path]:
        files = {self.root / episode.data_file for episode in self._chosen().values()}
        if self.episodes is None:
            # As in lerobot, every data file: the rows of an episode may continue in the next one.
            files |= set((self.root / "data").glob("*/*.parquet"))
        return sorted(files)

    def _find_bounds(self) -> NDArray[np.int64]:
        """Return the first row of each row's episode and the row after its last, (N, 2)."""
        rows = self._columns["episode_index"]
        found = dict(zip(*(a.tolist() for a in np.unique(rows, return_counts=True)), strict=True))
        wanted = {e: episode.length for e, episode in self._chosen().items()}
        for episode in sorted(wanted.keys() | found.keys()):
            if wanted.get(episode) != found.get(episode):
                place = self._metadata.episodes.get(episode)
                msg = (
                    f"{self.root / (place.data_file if place else 'data')} has "
                    f"{found.get(episode, 0)} rows of episode {episode}, but meta/ lists "
                    f"{wanted.get(episode, 0)}. Restore data/ and meta/ from the same copy."
                )
                raise DatasetError(msg)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        if len(starts) != len(found):
            msg = f"{self.root / 'data'}: the rows of an episode are not contiguous. Restore data/."
            raise DatasetError(msg)
        ends = np.append(starts[1:], len(rows))
        return np.repeat(np.stack([starts, ends], axis=1), ends - starts, axis=0)

    def _check_rows(self) -> None:
        steps_s = np.diff(self._columns["timestamp"])[np.diff(self._columns["episode_index"]) == 0]
        step_s = float(np.median(steps_s)) if len(steps_s) else 1 / self.fps
        if abs(step_s * self.fps - 1) > MAX_FPS_ERROR:
            msg = (
                f"{self.root / 'meta' / 'info.json'}: fps is {self.fps}, but the timestamps of the "
                f"rows are {step_s:.4f} s apart. "
                f'Write "fps": {round(1 / step_s) if step_s else "?"}.'
            )
            raise DatasetError(msg)
        unknown = set(np.unique(self._columns["task_index"]).tolist()) - self._metadata.tasks.keys()
        if unknown:
            msg = f"{self.root / 'meta'}: no task has task_index {sorted(unknown)}. Add its text."
            raise DatasetError(msg)

    def _check_feature(self, key: str, argument: str) -> None:
        if key not in self.features:
            msg = f'{argument}: unknown feature "{key}". {self.root} has {list(self.features)}.'
            raise DatasetError(msg)

    def _to_offsets(self, delta_timestamps: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
        for key, deltas in delta_timestamps.items():
            self._check_feature(key, "delta_timestamps")
            off = [d for d in deltas if abs(d - round(d * self.fps) / self.fps) > self.tolerance_s]
            if off:
                msg = (
                    f'delta_timestamps["{key}"]: {off} are not multiples of 1/fps = '
                    f"{1 / self.fps:.6g} s within tolerance_s={self.tolerance_s}. "
                    f"Use {[round(d * self.fps) / self.fps for d in off]}."
                )
                raise DatasetError(msg)
        return {k: [round(d * self.fps) for d in deltas] for k, deltas in delta_timestamps.items()}


def plain_episodes(episodes: Sequence[int]) -> list[int]:
    """Convert a range, array or list of episode indices to a list of Python integers.

    Args:
        episodes: Sequence of integers, NumPy's included.

    Returns:
        The same indices as plain integers, which YAML and checkpoints can hold.

    Raises:
        DatasetError: An element is not an integer.
    """
    try:
        return [operator.index(episode) for episode in episodes]
    except TypeError as error:
        msg = f"episodes must be a list of episode indices, got {episodes!r}. Use [0, 1, 2]."
        raise DatasetError(msg) from error
