"""The rows of a dataset, held in memory column by column."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from getiaction.data.errors import DatasetError
from getiaction.data.metadata import read_columns

# lerobot converts Python numbers to tensors, so its samples have torch's default types: float32
# for every float, int64 for every integer.
ARROW_TYPES = {"f": pa.float32(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}

# A numpy array of numbers, or a pyarrow.ChunkedArray of anything else; pyarrow ships no types.
Column = Any


def load_columns(
    files: Sequence[Path], features: dict[str, dict[str, Any]], episodes: Sequence[int] | None
) -> dict[str, Column]:
    """Read every feature that is stored in the data files, so everything but videos.

    Images are kept encoded and are decoded when they are used: they take as much memory as on disk.

    Args:
        files: Parquet files to read, in the order of their rows.
        features: Description of each feature by key, as in `meta/info.json`.
        episodes: Indices of the episodes to keep; None keeps all.

    Returns:
        The N rows of each feature by key. Numbers are an array (N, *shape) of float32, int64 or
        bool, or (N,) if the rows hold scalars; texts and encoded images are an Arrow column.

    Raises:
        DatasetError: A file or column is missing, damaged or has an unexpected shape.
    """
    stored = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    rows = None if episodes is None else pc.field("episode_index").isin(list(episodes))
    parts: dict[str, list[Column]] = {key: [] for key in stored}
    for file in files:
        table = read_columns(file, list(stored), filters=rows)
        for key, feature in stored.items():
            parts[key].append(_load_column(file, key, table[key], feature))
    return {key: _join(columns) for key, columns in parts.items()}


def _load_column(file: Path, key: str, column: pa.ChunkedArray, feature: dict[str, Any]) -> Column:
    try:
        return _to_column(column, feature)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        msg = (
            f'{file}: column "{key}" does not hold {feature["dtype"]} of shape '
            f"{list(feature['shape'])}, which meta/info.json declares ({error}). "
            "Correct the feature in meta/info.json, or write the file again."
        )
        raise DatasetError(msg) from error


def _join(parts: list[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], pa.ChunkedArray):
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    return np.concatenate(parts)


def _to_column(column: pa.ChunkedArray, feature: dict[str, Any]) -> Column:
    if feature["dtype"] == "image":
        column = pc.struct_field(column, "bytes")
        if column.null_count:
            msg = "some images are not embedded in the file"
            raise ValueError(msg)
        return column.cast(pa.large_binary())
    if feature["dtype"] == "string":
        return column.cast(pa.large_string())
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    is_vector = pa.types.is_nested(array.type)
    while pa.types.is_nested(array.type):
        array = array.flatten()
    if array.null_count:
        msg = f"{array.null_count} values are missing"
        raise ValueError(msg)
    values = array.cast(ARROW_TYPES[np.dtype(feature["dtype"]).kind]).to_numpy(zero_copy_only=False)
    shape = (len(column), *feature["shape"])
    if math.prod(shape) != values.size:
        msg = f"it holds {values.size} numbers in {len(column)} rows"
        raise ValueError(msg)
    return values.reshape(shape) if is_vector else values
