"""The metadata of a LeRobot dataset: its `meta/` folder, in the formats v2.1 and v3.0."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from getiaction.data.depth import check_depth, is_depth
from getiaction.data.errors import DatasetError
from getiaction.data.stats import FeatureStats, aggregate_stats

REQUIRED = ("codebase_version", "fps", "features", "total_episodes", "total_frames", "data_path")
INDEX_FEATURES = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Episode:
    """The files that hold the frames of one episode.

    Attributes:
        length: Number of frames in the episode; one that has none has no files either.
        data_file: Parquet file with the episode's rows, relative to the dataset's root.
        videos: For each video key, the mp4 file, relative to the root, and the time in seconds at
            which the episode starts in it.
    """

    length: int
    data_file: str
    videos: dict[str, tuple[str, float]]


@dataclass(frozen=True)
class Metadata:
    """The contents of a dataset's `meta/` folder.

    Attributes:
        root: Local folder of the dataset.
        fps: Frames per second of every episode.
        features: Description of each feature by key: "dtype", "shape" (a tuple), "names" and more.
        episodes: Files of each episode, by episode index.
        tasks: Text of each task, by task index.
        subtasks: Text of each subtask, by subtask index; None if the dataset has no subtasks.
        stats: "min", "max", "mean" and "std" of each feature by key, as stored; may be incomplete.
    """

    root: Path
    fps: int
    features: dict[str, dict[str, Any]]
    episodes: dict[int, Episode]
    tasks: dict[int, str]
    subtasks: dict[int, str] | None
    stats: dict[str, FeatureStats]

    @property
    def video_keys(self) -> list[str]:
        """Keys of the cameras that are stored as video files."""
        return [key for key, ft in self.features.items() if ft["dtype"] == "video"]

    @property
    def camera_keys(self) -> list[str]:
        """Keys of all cameras, stored as videos or as images."""
        return [key for key, ft in self.features.items() if ft["dtype"] in {"video", "image"}]

    @property
    def depth_keys(self) -> set[str]:
        """Keys of the cameras that are marked as depth cameras."""
        return {key for key in self.camera_keys if is_depth(self.features[key])}


def read_metadata(root: Path) -> Metadata:
    """Read the `meta/` folder of a dataset in LeRobot's format v2.1 or v3.0.

    Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3.

    Args:
        root: Local folder that holds `meta/info.json`.

    Returns:
        The metadata, after a check that its files agree with each other.

    Raises:
        DatasetError: A file is missing or damaged, has an unsupported version, or contradicts
            another file.
    """
    path = root / "meta" / "info.json"
    info = _read_info(path)
    features = _read_features(path, info)
    video_keys = [key for key, ft in features.items() if ft["dtype"] == "video"]
    subtasks = None
    try:
        if info["codebase_version"] == "v2.1":
            lines = _read_lines(root / "meta" / "tasks.jsonl")
            tasks = _by_index("task", [(line["task_index"], line["task"]) for line in lines])
            episodes = _by_index("episode", _episodes_v21(root, info, video_keys))
            stats = _stats_v21(root / "meta" / "episodes_stats.jsonl")
        else:
            tasks = _read_texts(root / "meta" / "tasks.parquet", "task_index")
            episodes = _by_index("episode", _episodes_v30(root, info, video_keys))
            stats = _stats_v30(root / "meta" / "stats.json")
            if "subtask_index" in features and (root / "meta" / "subtasks.parquet").is_file():
                subtasks = _read_texts(root / "meta" / "subtasks.parquet", "subtask_index")
    except (KeyError, IndexError) as error:
        msg = f"{path.parent} lacks {error}, or has it in an unknown form. Restore the folder."
        raise DatasetError(msg) from error
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, DatasetError):
            raise
        msg = f"{path.parent} has a value of an unknown form ({error}). Restore the folder."
        raise DatasetError(msg) from error
    _check_totals(path, info, episodes)
    return Metadata(root, info["fps"], features, episodes, tasks, subtasks, stats)


def _read_info(path: Path) -> dict[str, Any]:
    info = _read_json(path)
    missing = [key for key in REQUIRED if not isinstance(info, dict) or key not in info]
    if missing:
        msg = f"{path} lacks {missing}. Download or copy the file again."
        raise DatasetError(msg)
    version = str(info["codebase_version"])
    if version != "v2.1" and not version.startswith("v3."):
        older = version.startswith(("v0", "v1", "v2"))
        fix = (
            "convert it to v3.0 with lerobot's conversion scripts"
            if older
            else "use a newer release of this package, or write the dataset as v3.0"
        )
        msg = f'{path}: codebase_version "{version}" is not supported (v2.1 and v3.0 are); {fix}.'
        raise DatasetError(msg)
    fps = info["fps"]
    is_rate = isinstance(fps, int | float) and not isinstance(fps, bool)
    if not is_rate or not 0 < fps < math.inf:
        msg = (
            f"{path}: fps must be a positive number, got {fps!r}. "
            'Write the rate of the recording, such as "fps": 30.'
        )
        raise DatasetError(msg)
    return dict(info)


def _read_features(path: Path, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    described = info["features"]
    if not isinstance(described, dict):
        msg = f"{path}: features must be an object with a key per feature. Restore the file."
        raise DatasetError(msg)
    missing = [key for key in INDEX_FEATURES if key not in described]
    if missing:
        msg = f"{path}: features lacks {missing}, which every LeRobot dataset has. Restore them."
        raise DatasetError(msg)
    features = {}
    for key, feature in described.items():
        dtype = feature.get("dtype") if isinstance(feature, dict) else None
        shape: Any = feature.get("shape") if isinstance(feature, dict) else None
        is_camera = dtype in {"video", "image"}
        has_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(dtype, str) or not has_shape or (is_camera and len(shape) != 3):  # noqa: PLR2004 - height, width, channels
            msg = (
                f'{path}: feature "{key}" needs a dtype and a shape, which is a list of numbers '
                f"(three of them for a camera); it has {feature}. Write those of the data."
            )
            raise DatasetError(msg)
        if feature["dtype"] == "video" and not info.get("video_path"):
            msg = f'{path} lacks video_path, although "{key}" is a video. Restore the file.'
            raise DatasetError(msg)
        if is_camera and is_depth(feature):
            check_depth(str(path), key, feature)
        features[key] = {**feature, "shape": tuple(shape)}
    return features


def _check_totals(path: Path, info: dict[str, Any], episodes: dict[int, Episode]) -> None:
    frames = sum(episode.length for episode in episodes.values())
    for key, found in (("total_episodes", len(episodes)), ("total_frames", frames)):
        if info[key] != found:
            msg = (
                f"{path}: {key} is {info[key]!r}, but the episodes in meta/ add up to {found}. "
                f'Write "{key}": {found} if the episodes are right, or else restore meta/.'
            )
            raise DatasetError(msg)
    if not frames:
        msg = f"{path}: the dataset has no frames. Record at least one episode."
        raise DatasetError(msg)


def _by_index(noun: str, listed: Iterable[tuple[int, Any]]) -> dict[int, Any]:
    """Make a dict of what metadata lists, if every index is a number of its own."""
    found: dict[int, Any] = {}
    for index, entry in listed:
        if type(index) is not int or index < 0:
            msg = f"the {noun}_index {index!r}"
            raise TypeError(msg)
        if index in found and found[index] != entry:
            msg = f"{noun}_index {index} twice"
            raise ValueError(msg)
        found[index] = entry
    return found


def _file(template: str, **place: Any) -> str:  # noqa: ANN401 - numbers and keys
    """Fill in the name of a file, which must be inside the dataset's root."""
    name = template.format(**place)
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        msg = f'the path "{name}" outside of the dataset'
        raise ValueError(msg)
    return name


def _length(row: dict[str, Any]) -> int:
    if type(row["length"]) is not int or row["length"] < 0:
        msg = f"the length {row['length']!r} of episode {row['episode_index']}"
        raise TypeError(msg)
    return int(row["length"])


def _episodes_v21(
    root: Path, info: dict[str, Any], video_keys: list[str]
) -> Iterator[tuple[int, Episode]]:
    for row in _read_lines(root / "meta" / "episodes.jsonl"):
        index = row["episode_index"]
        place = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        if not _length(row):
            yield index, Episode(0, "", {})
            continue
        videos = {k: (_file(info["video_path"], video_key=k, **place), 0.0) for k in video_keys}
        yield index, Episode(_length(row), _file(info["data_path"], **place), videos)


def _episodes_v30(
    root: Path, info: dict[str, Any], video_keys: list[str]
) -> Iterator[tuple[int, Episode]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        msg = f"{root / 'meta' / 'episodes'} has no parquet file. Restore the folder."
        raise DatasetError(msg)
    video_columns = ("chunk_index", "file_index", "from_timestamp")
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    columns += [f"videos/{key}/{column}" for key in video_keys for column in video_columns]
    for file in files:
        table = read_columns(file, columns)
        for row in table.to_pylist():
            if not _length(row):
                yield row["episode_index"], Episode(0, "", {})
                continue
            videos = {}
            for key in video_keys:
                chunk, number, start_s = (row[f"videos/{key}/{column}"] for column in video_columns)
                place = {"chunk_index": chunk, "file_index": number}
                if not math.isfinite(start_s):
                    msg = f"the from_timestamp {start_s} of episode {row['episode_index']}"
                    raise ValueError(msg)
                videos[key] = (_file(info["video_path"], video_key=key, **place), start_s)
            place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
            yield (
                row["episode_index"],
                Episode(_length(row), _file(info["data_path"], **place), videos),
            )


def _stats_v21(path: Path) -> dict[str, FeatureStats]:
    return aggregate_stats([row["stats"] for row in _read_lines(path)]) if path.is_file() else {}


def _stats_v30(path: Path) -> dict[str, FeatureStats]:
    return dict(_read_json(path)) if path.is_file() else {}


def _read_texts(path: Path, index_column: str) -> dict[int, str]:
    # The texts were the index of a pandas frame, so releases of lerobot name their column
    # differently.
    table = read_columns(path, None)
    others = [name for name in table.column_names if name != index_column]
    if len(others) == len(table.column_names) or not others:
        msg = f"{path} needs a column {index_column} and a column of texts. Restore the file."
        raise DatasetError(msg)
    rows = zip(table[index_column].to_pylist(), table[others[-1]].to_pylist(), strict=True)
    return _by_index(index_column.removesuffix("_index"), rows)


def read_columns(path: Path, columns: list[str] | None, rows: pc.Expression = None) -> pa.Table:
    """Read columns of one parquet file.

    Args:
        path: Parquet file to read.
        columns: Names of the top-level columns to read; None reads all.
        rows: Which rows to read, an expression of `pyarrow.compute`; None reads all.

    Returns:
        A table of exactly the given columns, in the given order.

    Raises:
        DatasetError: The file or a column is missing, or the file is damaged.
    """
    try:
        # A dataset has thousands of files: each is opened once, and has no threads of its own.
        with pa.OSFile(str(path)) as content, pq.ParquetFile(content) as file:
            present = file.schema_arrow.names
            absent = [name for name in columns or [] if name not in present]
            if absent:
                msg = (
                    f"{path} has no column {absent}, although meta/info.json declares it. It has "
                    f"{present}. Correct the features in meta/info.json, or restore the file."
                )
                raise DatasetError(msg)
            # Of several row groups, those without a wanted row are left out.
            is_whole = rows is None or file.num_row_groups == 1
            table = file.read(columns, use_threads=False) if is_whole else None
        if table is None:
            table = pq.read_table(path, columns=columns, partitioning=None, filters=rows)
        elif rows is not None:
            table = table.filter(rows)
    except FileNotFoundError as error:
        msg = f"{path} is missing. Download or copy the dataset again."
        raise DatasetError(msg) from error
    except (pa.ArrowException, OSError) as error:
        msg = f"{path} is damaged ({error}). Download or copy the file again."
        raise DatasetError(msg) from error
    # read_table takes paths, so "action" also selects a column "action.x".
    return table.select(columns) if columns is not None else table


def _read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path} is missing. Set root to the folder that holds meta/info.json."
        raise DatasetError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{path} is not readable JSON ({error}). Download or copy the file again."
        raise DatasetError(msg) from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError as error:
        msg = f"{path} is missing. Download or copy the dataset again."
        raise DatasetError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{path} is not readable JSON lines ({error}). Download or copy the file again."
        raise DatasetError(msg) from error
