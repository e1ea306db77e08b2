"""LeRobotDataset: reads robot data in LeRobot's formats v2.1 and v3.0, without lerobot."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from getiaction.data import rows as checks
from getiaction.data.arguments import check_options, plain_episodes, plain_size, to_offsets
from getiaction.data.batch import Collate, transform_images
from getiaction.data.cameras import CameraReader, check_videos
from getiaction.data.column_cache import open_columns
from getiaction.data.columns import is_object, to_object
from getiaction.data.depth import DepthUnit
from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Episode
from getiaction.data.source import Source, fetch_dataset
from getiaction.data.stats import FeatureStats, policy_stats


class LeRobotDataset(Dataset[dict[str, Any]]):
    """The frames of recorded episodes, each with the neighbouring frames that a policy needs.

    Sample `i` is a dict, equal to the one that lerobot's class of the same name returns: each
    feature is a tensor (floats as float32, integers as int64), cameras are (3, H, W) float32 in
    [0, 1], depth cameras (1, H, W) float32 in millimetres, and "task" is text. Features that are
    neither numbers nor images, such as `language_events`, are Python objects. A feature with T
    frame offsets is stacked to (T, ...). Offsets that leave the episode repeat its first or last
    frame, and "<key>_is_pad", (T,) bool, marks them. As in lerobot, a video with a single offset is
    not stacked.

    Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Rows are held in memory, stored
    images included, and those of a large dataset only once per node: they are written to the cache
    (`GETIACTION_CACHE`) and mapped into memory. Videos are decoded when a sample is read. The
    dataset is not thread-safe, but loader workers of any start method can share it.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL (`s3://`, `hf://`, `memory://`...) of the dataset. Remote
            files are downloaded once to the cache (`GETIACTION_CACHE`), videos when a sample needs
            them first. Together with `repo_id`, it is the folder to read if it exists, and to
            download into otherwise.
        episodes: Indices of the episodes to read; None reads all. Samples keep the files' order.
        image_transforms: Function that is applied to each camera tensor but those of depth, (3, H,
            W) in [0, 1], or (T, 3, H, W) if the sample stacks T frames, as lerobot does.
        delta_timestamps: Offsets in seconds to stack, by feature key; multiples of 1/fps.
        tolerance_s: Largest difference between a wanted time and a frame's time, in seconds.
        revision: Branch, tag or commit of `repo_id`; None takes the newest supported format.
        force_cache_sync: Whether to download remote files again that are already cached.
        download_videos: Whether to download videos; without them, samples cannot be read.
        use_imagenet_stats: Whether `stats` has ImageNet's mean and std for RGB cameras.
        depth_output_unit: Unit of depth cameras and their statistics, "mm" or "m".
        non_finite: What to do about frames whose actions, observations or rewards have NaN or
            infinity: "error" refuses the dataset, "keep" keeps them, and "drop" leaves them out.
            Where frames are left out, offsets stop as at the end of an episode.
        image_size: Height and width in pixels that camera images of 8 bits are resized to once they
            are decoded, depth cameras excepted; None keeps their size, as lerobot does.

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
        depth_output_unit: DepthUnit = "mm",
        non_finite: checks.NonFinite = "error",
        image_size: Sequence[int] | None = None,
    ) -> None:
        check_options(depth_output_unit, non_finite)
        self.depth_output_unit = depth_output_unit
        self.repo_id = repo_id
        self.image_transforms = image_transforms
        self.tolerance_s = tolerance_s
        self.episodes = None if episodes is None else plain_episodes(episodes)
        source = Source(repo_id, root, revision, refresh=force_cache_sync)
        self._metadata, on_demand = fetch_dataset(
            source, self.episodes, download_videos=download_videos
        )
        self.root = self._metadata.root
        self.features = self._metadata.features
        self.fps = self._metadata.fps
        if not self._chosen():
            raise self._empty()
        if download_videos:
            check_videos(self.root, self._chosen().values(), on_demand.absent)
        self._columns = open_columns(self._data_files(), self.features, self.episodes)
        self._pieces, kept = self._check_rows(non_finite)
        size = plain_size(image_size)
        self._cameras = CameraReader(
            self._metadata, self._columns, tolerance_s, depth_output_unit, size, on_demand=on_demand
        )
        self._cameras.check(kept, with_videos=download_videos)
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._use_imagenet_stats = use_imagenet_stats
        self.stats = self._find_stats()
        for key in delta_timestamps or ():
            self._check_feature(key, "delta_timestamps")
        self.delta_indices = to_offsets(delta_timestamps or {}, self.fps, tolerance_s)

    def keep_episodes(self, episodes: Sequence[int]) -> None:
        """Leave out all but some of the episodes, as if these alone had been opened.

        A copy by `copy.copy` that keeps other episodes shares its rows with this dataset.

        Args:
            episodes: Indices of episodes of this dataset.

        Raises:
            DatasetError: The episodes have no frames, or no usable statistics.
        """
        self.episodes = plain_episodes(episodes)
        self._pieces = self._pieces.of_episodes(self._columns["episode_index"], self.episodes)
        if not self._pieces:
            raise self._empty()
        self.stats = self._find_stats()

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def num_frames(self) -> int:
        """Number of frames in the episodes that are read."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """Number of episodes that are read."""
        return len(self._metadata.episodes if self.episodes is None else self.episodes)

    @property
    def object_keys(self) -> frozenset[str]:
        """Keys whose values are Python objects, which `torch.utils.data.default_collate` lacks."""
        keys = {key for key, feature in self.features.items() if is_object(feature)}
        texts = {key for key, column in self._columns.items() if getattr(column, "null_count", 0)}
        return frozenset(keys | texts)

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

    def expect(self, indices: Sequence[int] | torch.Tensor | Callable[[], torch.Tensor]) -> None:
        """Have the videos of some samples that are missing downloaded in the background.

        Args:
            indices: Numbers of samples in the order in which they will be read, or a function that
                returns them; it is called only if videos are missing.
        """
        if self._cameras.lacks_videos:
            order = np.asarray(indices() if callable(indices) else indices)
            self._cameras.expect(self._pieces.all_rows()[order])

    def bytes_per_sample(self, collate: Collate | None) -> int:
        """Return how much memory the numbers and images of a sample take in a batch, in bytes.

        Args:
            collate: What makes batches; images stay bytes only if it is `WholeBatches` with a type.
        """
        dtype = None if self.image_transforms else getattr(collate, "image_dtype", None)
        sizes = {k: c[:1].nbytes for k, c in self._columns.items() if isinstance(c, np.ndarray)}
        sizes |= self._cameras.image_bytes(as_float=dtype is None)
        return sum(size * len(self._offsets.get(key, [0])) for key, size in sizes.items())

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        row = self._row(index)
        windows, pads = self._windows(np.array([row]))
        rows = {key: each[0] for key, each in windows.items()}
        item: dict[str, Any] = {
            key: self._cameras.read_video(key, rows.get(key, [row]))
            for key in self._metadata.video_keys
        }
        for key in self._columns:
            item[key] = self._stack(key, rows[key]) if key in rows else self._value(key, row)
        item |= {key: each[0] for key, each in pads.items()}
        if self.image_transforms is not None:
            for key in self._transformed_keys:
                item[key] = self.image_transforms(item[key])
        return item | self._texts(row)

    def read_batch(self, indices: Sequence[SupportsIndex]) -> dict[str, Any]:
        """Read some samples as one batch, which is faster than to read and collate each.

        Args:
            indices: Numbers of B samples.

        Returns:
            What `Collate` makes of these samples, but colour images of 8 bits are `ByteImages`
            unless there are `image_transforms`.
        """
        rows = np.array([self._row(index) for index in indices])
        self._cameras.wait_for(rows)
        windows, pads = self._windows(rows)
        batch: dict[str, Any] = {}
        for key in self._metadata.video_keys:
            wanted = windows.get(key, rows)
            one = wanted.ndim > 1 and wanted.shape[1] == 1
            batch[key] = self._cameras.read_batch(key, wanted[:, 0] if one else wanted)
        for key, column in self._columns.items():
            wanted = windows.get(key, rows)
            if isinstance(column, np.ndarray):
                batch[key] = torch.from_numpy(self._numbers(key, wanted))
            elif self.features[key]["dtype"] == "image":
                batch[key] = self._cameras.read_batch(key, wanted)
            elif key in windows:
                values = [self._stack(key, each) for each in wanted]
                batch[key] = values if key in self.object_keys else default_collate(values)
            else:
                batch[key] = [self._value(key, int(row)) for row in rows]
        batch |= pads
        if self.image_transforms is not None:
            transform_images(batch, self._transformed_keys, self.image_transforms)
        texts = [self._texts(int(row)) for row in rows]
        return batch | {key: [text[key] for text in texts] for key in texts[0]}

    @property
    def _transformed_keys(self) -> list[str]:
        return [key for key in self._metadata.camera_keys if key not in self._metadata.depth_keys]

    def _row(self, index: SupportsIndex) -> int:
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            msg = f"index {row} is out of range: the dataset has {len(self)} frames"
            raise IndexError(msg)
        return self._pieces.row(row % len(self))

    def _windows(
        self, rows: NDArray[np.int64]
    ) -> tuple[dict[str, NDArray[np.int64]], dict[str, torch.Tensor]]:
        """Return the rows (B, T) that B samples stack, and "<key>_is_pad" (B, T), by key."""
        windows, pads = {}, {}
        for key, offsets in self._offsets.items():
            windows[key], is_pad = self._pieces.windows(rows, offsets)
            pads[f"{key}_is_pad"] = torch.from_numpy(is_pad)
        return windows, pads

    def _texts(self, row: int) -> dict[str, str]:
        texts = {"task": self._metadata.tasks[int(self._columns["task_index"][row])]}
        if self._metadata.subtasks is not None:
            subtask = int(self._columns["subtask_index"][row])
            texts["subtask"] = self._metadata.subtasks[subtask]
        return texts

    def _value(self, key: str, row: int) -> Any:  # noqa: ANN401 - any Python object
        column = self._columns[key]
        if isinstance(column, np.ndarray):
            return torch.tensor(self._numbers(key, row))
        if self.features[key]["dtype"] == "image":
            return self._cameras.read_image(key, row)
        return to_object(column[row], self.features[key])

    def _numbers(self, key: str, rows: int | NDArray[np.int64]) -> Any:  # noqa: ANN401 - number or array
        numbers = self._columns[key][rows]
        # They are kept with the precision that finds a frame, but samples have lerobot's type.
        return numbers.astype(np.float32) if key == "timestamp" else numbers

    def _stack(self, key: str, rows: NDArray[np.int64]) -> torch.Tensor | list[Any]:
        column = self._columns[key]
        if isinstance(column, np.ndarray):
            return torch.from_numpy(self._numbers(key, rows))
        values = [self._value(key, int(row)) for row in rows]
        return torch.stack(values) if self.features[key]["dtype"] == "image" else values

    def _chosen(self) -> dict[int, Episode]:
        listed = self._metadata.episodes
        chosen = listed if self.episodes is None else self.episodes
        return {episode: listed[episode] for episode in chosen if listed[episode].length}

    def _data_files(self) -> list[Path]:
        files = {self.root / episode.data_file for episode in self._chosen().values()}
        if self.episodes is None:
            # As in lerobot, every data file: the rows of an episode may continue in the next one.
            files |= set((self.root / "data").glob("*/*.parquet"))
        return sorted(files)

    def _check_rows(self, non_finite: checks.NonFinite) -> tuple[checks.Pieces, NDArray[np.bool_]]:
        """Check all rows, and find what windows may reach and whether each row is kept."""
        rows = checks.read_rows(self.root, self._columns)
        checks.check_episodes_complete(rows, self._metadata, list(self._chosen()))
        checks.check_counters(rows, self._columns)
        checks.check_tasks(rows, self._columns["task_index"], self._metadata.tasks)
        kept, problem = checks.finite_rows(rows, self._columns, non_finite)
        if problem:
            rank_zero_warn(problem)
        checks.check_rate(rows, self.fps, kept)
        return checks.find_pieces(rows.episode, kept), kept

    def _empty(self) -> DatasetError:
        msg = f"{self.root}: episodes={self.episodes} have no frames. Pass other episodes."
        return DatasetError(msg)

    def _find_stats(self) -> dict[str, FeatureStats]:
        rows = self._pieces.all_rows()
        numbers = {k: c for k, c in self._columns.items() if isinstance(c, np.ndarray)}
        return policy_stats(
            self.features,
            self._metadata.stats,
            numbers,
            rows,
            use_imagenet_stats=self._use_imagenet_stats,
            depth_unit=self.depth_output_unit,
            sample_camera=lambda key: self._cameras.sample(key, rows),
        )

    def _check_feature(self, key: str, argument: str) -> None:
        if key not in self.features:
            msg = f'{argument}: unknown feature "{key}". {self.root} has {list(self.features)}.'
            raise DatasetError(msg)
