"""A writer of small LeRobot v3.0 datasets, which the dot dataset is written with."""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.container import OutputContainer
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError
from getiaction.data.stats import FeatureStats, aggregate_stats

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
ARROW_TYPES = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
INDEX_DTYPES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}

Array = NDArray[Any]


def write_dataset(
    root: Path,
    episodes: Iterable[tuple[NDArray[np.uint8], dict[str, Array]]],
    *,
    fps: int,
    task: str,
    camera: str,
    image_size_px: int,
    features: dict[str, dict[str, Any]],
    robot_type: str,
) -> None:
    """Write a small LeRobot v3.0 dataset with one task and one camera.

    Layout: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. All episodes are written to one
    data file and one video file. The folder appears only when it is complete, so an error or a kill
    leaves no part of it at `root`.

    Args:
        root: Local folder to write.
        episodes: For each episode of T frames, the camera's RGB images, (T, image_size_px,
            image_size_px, 3) uint8, and the values of each feature by key, (T,) or (T, n).
        fps: Frames per second of every episode.
        task: Text that describes the task of every episode.
        camera: Feature key of the camera, such as "observation.image".
        image_size_px: Height and width of the images in pixels; an even number.
        features: Description of each feature by key: "dtype" ("float32", "int64" or "bool"),
            "shape" ([n]) and "names".
        robot_type: Name of the robot, as stored in `meta/info.json`.

    Raises:
        DatasetError: There is something at `root` already.
    """
    if root.exists():
        msg = f"{root} already exists. Use another folder, or remove it first: rm -r {root}"
        raise DatasetError(msg)
    index = {k: {"dtype": dtype, "shape": [1], "names": None} for k, dtype in INDEX_DTYPES.items()}
    rows = {**features, **index}
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    try:
        video_file = _file(partial, VIDEO_PATH, video_key=camera)
        data_file = _file(partial, DATA_PATH)
        with (
            av.open(str(video_file), "w") as video,
            pq.ParquetWriter(data_file, _schema(rows)) as data,
        ):
            written = _write_episodes(
                video, data, episodes, fps=fps, camera=camera, image_size_px=image_size_px
            )
            places, stats = zip(*written, strict=True)
        listed = [{"tasks": [task], **p, **_flat(s)} for p, s in zip(places, stats, strict=True)]
        pq.write_table(pa.Table.from_pylist(listed), _file(partial, EPISODES_PATH))
        _write_tasks(partial / "meta" / "tasks.parquet", task)
        num_frames = places[-1]["dataset_to_index"]
        joined = {
            key: {name: value.tolist() for name, value in values.items()} | {"count": [num_frames]}
            for key, values in aggregate_stats(stats).items()
        }
        _write_json(partial / "meta" / "stats.json", joined)
        info = {
            "codebase_version": "v3.0",
            "robot_type": robot_type,
            "total_episodes": len(places),
            "total_frames": num_frames,
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": fps,
            "splits": {"train": f"0:{len(places)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": {camera: _camera(image_size_px, fps), **rows},
        }
        _write_json(partial / "meta" / "info.json", info)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_episodes(
    video: OutputContainer,
    data: pq.ParquetWriter,
    episodes: Iterable[tuple[NDArray[np.uint8], dict[str, Array]]],
    *,
    fps: int,
    camera: str,
    image_size_px: int,
) -> Iterator[tuple[dict[str, Any], dict[str, FeatureStats]]]:
    """Write images and rows; yield the location and the statistics of each episode."""
    stream = video.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "18"})
    stream.width = stream.height = image_size_px
    stream.pix_fmt = "yuv420p"
    # As in lerobot, every second frame is a key frame, because frames are read in random order.
    stream.codec_context.gop_size = 2
    stream.codec_context.max_b_frames = 0
    stream.codec_context.thread_count = 1
    start = 0
    for number, (frames, columns) in enumerate(episodes):
        length = len(frames)
        steps = np.arange(length)
        rows = {
            **columns,
            "timestamp": (steps / fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, number),
            "index": start + steps,
            "task_index": np.zeros(length, np.int64),
        }
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        # As in lerobot, one row group per episode, so that readers of some episodes skip others.
        schema = data.schema
        data.write_table(pa.table({key: list(rows[key]) for key in schema.names}, schema=schema))
        stats = {key: _describe(column) for key, column in rows.items()}
        place = {
            "episode_index": number,
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            f"videos/{camera}/chunk_index": 0,
            f"videos/{camera}/file_index": 0,
            f"videos/{camera}/from_timestamp": start / fps,
            f"videos/{camera}/to_timestamp": (start + length) / fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        yield place, {**stats, camera: _describe_images(frames)}
        start += length
    video.mux(stream.encode())


def _file(root: Path, template: str, **names: str) -> Path:
    path = root / template.format(chunk_index=0, file_index=0, **names)
    path.parent.mkdir(parents=True)
    return path


def _camera(image_size_px: int, fps: int) -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": [image_size_px, image_size_px, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": image_size_px,
            "video.width": image_size_px,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def _schema(features: dict[str, dict[str, Any]]) -> pa.Schema:
    fields = []
    for key, feature in features.items():
        number, (size,) = ARROW_TYPES[feature["dtype"]], feature["shape"]
        fields.append((key, number if size == 1 else pa.list_(number, size)))
    return pa.schema(fields)


def _describe(values: Array) -> FeatureStats:
    """Compute the statistics of (T,) or (T, n) values, as lists of one or n numbers."""
    table = values.astype(np.float64).reshape(len(values), -1)
    stats = {name: getattr(table, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return {**stats, "count": [len(values)]}


def _describe_images(frames: NDArray[np.uint8]) -> FeatureStats:
    """Compute the statistics of (T, H, W, 3) images, scaled to [0, 1], as lists [3][1][1]."""
    levels = np.arange(256) / 255
    counts = np.stack([np.bincount(frames[..., i].ravel(), minlength=256) for i in range(3)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    stats = {
        "min": levels[np.argmax(counts > 0, axis=1)],
        "max": levels[255 - np.argmax(counts[:, ::-1] > 0, axis=1)],
        "mean": mean,
        "std": np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1)),
    }
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()}
    return {**shaped, "count": [len(frames)]}


def _flat(stats: dict[str, FeatureStats]) -> dict[str, Any]:
    return {f"stats/{k}/{name}": v for k, values in stats.items() for name, v in values.items()}


def _write_tasks(path: Path, task: str) -> None:
    # lerobot reads a pandas frame whose index holds the texts; this metadata declares one.
    index = "__index_level_0__"
    columns = [
        {"name": "task_index", "field_name": "task_index"}
        | {"pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": index}
        | {"pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    description = {"index_columns": [index], "column_indexes": [], "columns": columns}
    table = pa.table({"task_index": [0], index: [task]})
    pq.write_table(
        table.replace_schema_metadata({"pandas": json.dumps(description, allow_nan=False)}), path
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, allow_nan=False) + "\n", encoding="utf-8")
