"""The rows of a dataset, held in memory column by column."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError
from getiaction.data.metadata import read_columns

# lerobot converts Python numbers to tensors, so its samples have torch's default types: float32
# for every float, int64 for every integer.
ARROW_TYPES: dict[str, Any] = {"f": pa.float32(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}

MAX_READ_AT_ONCE = 16
ROWS_PER_GROUP = 100_000

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
        bool, or (N,) if the rows hold scalars; "timestamp" is (N,) float64. Encoded images and
        everything that is neither number nor image are an Arrow column of N values.

    Raises:
        DatasetError: A file or column is missing, damaged or has an unexpected shape.
    """
    stored = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    rows = None if episodes is None else pc.field("episode_index").isin(list(episodes))
    parts: dict[str, list[Column]] = {key: [] for key in stored}
    firsts: list[Path] = []
    for names, tables in _groups(files, list(stored), rows):
        firsts.append(names[0])
        table = pa.concat_tables(tables)
        for key, feature in stored.items():
            parts[key].append(_convert(key, feature, table, names, tables))
    return {key: _join(key, columns, firsts) for key, columns in parts.items()}


def _groups(
    files: Sequence[Path], keys: list[str], rows: pc.Expression
) -> Iterator[tuple[list[Path], list[pa.Table]]]:
    """Read files, several at a time, and group neighbours that have the same types of columns."""
    names: list[Path] = []
    tables: list[pa.Table] = []
    threads = ThreadPoolExecutor(MAX_READ_AT_ONCE)
    try:
        for file, table in zip(
            files, threads.map(lambda file: read_columns(file, keys, rows), files), strict=True
        ):
            is_full = sum(map(len, tables)) >= ROWS_PER_GROUP
            if tables and (is_full or not table.schema.equals(tables[0].schema)):
                yield names, tables
                names, tables = [], []
            names.append(file)
            tables.append(table.replace_schema_metadata(None))
    finally:
        threads.shutdown(cancel_futures=True)
    yield names, tables


def is_number(feature: dict[str, Any]) -> bool:
    """Return whether a feature holds numbers or booleans, which samples have as tensors.

    Args:
        feature: Description of the feature, as in `meta/info.json`.
    """
    try:
        kind = str(np.dtype(feature["dtype"]).kind)
    except TypeError:  # a dtype that is not NumPy's, such as "language"
        return False
    return kind in ARROW_TYPES


def is_object(feature: dict[str, Any]) -> bool:
    """Return whether samples have a feature as a Python object, unlike tensors and plain texts.

    Args:
        feature: Description of the feature, as in `meta/info.json`.
    """
    dtype = feature["dtype"]
    if dtype == "string":
        return bool(math.prod(feature["shape"]) != 1)
    return dtype not in {"video", "image"} and not is_number(feature)


def to_object(value: Any, feature: dict[str, Any]) -> Any:  # noqa: ANN401 - any value of a column
    """Convert one value of an Arrow column to a Python object, as lerobot does.

    Args:
        value: Scalar of an Arrow column.
        feature: Description of the feature, as in `meta/info.json`.

    Returns:
        The value as Python's own types. Rows of dtype "language" are lists of dicts, whose tool
        calls are parsed from JSON.
    """
    rows = value.as_py()
    if feature["dtype"] == "language" and isinstance(rows, list):
        for row in rows:
            calls = row.get("tool_calls") if isinstance(row, dict) else None
            if calls is not None:
                row["tool_calls"] = [json.loads(c) if isinstance(c, str) else c for c in calls]
    return rows


def _convert(
    key: str, feature: dict[str, Any], table: pa.Table, files: list[Path], parts: list[pa.Table]
) -> Column:
    """Convert a column of a table that was joined of the tables of some files."""
    try:
        return _to_column(key, table, feature)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        if len(files) > 1:  # find the file that is wrong
            for file, part in zip(files, parts, strict=True):
                _convert(key, feature, part, [file], [part])
        msg = (
            f'{files[0]}: column "{key}" does not hold {feature["dtype"]} of shape '
            f"{list(feature['shape'])}, which meta/info.json declares ({error}). "
            "Correct the feature in meta/info.json, or write the file again."
        )
        raise DatasetError(msg) from error


def _join(key: str, parts: list[Column], files: Sequence[Path]) -> Column:
    if len(parts) == 1:
        return parts[0]
    if not isinstance(parts[0], pa.ChunkedArray):
        return np.concatenate(parts)
    # A column may be null in one file, or have 64-bit offsets in another.
    schemas = [pa.schema([(key, part.type)]) for part in parts]
    try:
        kind = pa.unify_schemas(schemas, promote_options="permissive").field(key).type
        return pa.chunked_array([c for part in parts for c in part.cast(kind).chunks], kind)
    except pa.ArrowException as error:
        other = next(i for i, part in enumerate(parts) if part.type != parts[0].type)
        msg = (
            f'{files[other]}: column "{key}" holds {parts[other].type}, but in {files[0]} it holds '
            f"{parts[0].type}. Write one of the files again with the type of the other."
        )
        raise DatasetError(msg) from error


def _to_column(key: str, table: pa.Table, feature: dict[str, Any]) -> Column:
    column = table[key]
    if feature["dtype"] == "image":
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            msg = f"some images are not embedded in the file, the first in {_place(table, row)}"
            raise ValueError(msg)
        return column.cast(pa.large_binary())
    if feature["dtype"] == "string":
        inner = column.type
        while pa.types.is_nested(inner) and inner.num_fields:
            inner = inner.field(0).type
        if pa.types.is_primitive(inner):
            msg = f"it holds {inner}"
            raise ValueError(msg)
        return column if is_object(feature) else column.cast(pa.large_string())
    if not is_number(feature):
        return column
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    is_vector = pa.types.is_nested(array.type) or isinstance(array, pa.ExtensionArray)
    numbers, starts = _flatten(array, table)
    wanted = math.prod(feature["shape"])
    odd = np.flatnonzero(np.diff(starts) != wanted)
    if odd.size:
        found = starts[odd[0] + 1] - starts[odd[0]]
        msg = f"{_place(table, odd[0])} has {found} numbers instead of {wanted}"
        raise ValueError(msg)
    kind = np.dtype(feature["dtype"]).kind
    # In float32, timestamps since 1970 would be minutes apart.
    arrow_type = pa.float64() if key == "timestamp" else ARROW_TYPES[kind]
    values = _to_numpy(numbers.cast(arrow_type))
    is_scalar = not is_vector or key == "timestamp"
    return values if is_scalar else values.reshape(len(column), *feature["shape"])


def _flatten(array: pa.Array, table: pa.Table) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return all numbers of nested lists, and the position of each row's first one, and the end."""
    starts = np.arange(len(array) + 1)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if array.null_count:
            absent = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            row = int(np.searchsorted(starts, absent, side="right")) - 1
            msg = f"{array.null_count} values are missing, the first in {_place(table, row)}"
            raise ValueError(msg)
        if not pa.types.is_nested(array.type):
            return array, starts
        if pa.types.is_fixed_size_list(array.type):
            starts = starts * array.type.list_size
        else:
            offsets = _to_numpy(array.offsets)
            starts = offsets[starts].astype(np.int64) - int(offsets[0])
        array = array.flatten()


def _to_numpy(numbers: pa.Array) -> NDArray[Any]:
    """Return numbers of which none is missing, without a copy unless they are bools.

    Arrow's own `to_numpy` imports pandas wherever that is installed, in each rank.
    """
    if pa.types.is_boolean(numbers.type):  # packed as bits
        return np.from_dlpack(numbers.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(numbers)


def _place(table: pa.Table, row: int) -> str:
    """Name a row of a file by its episode and frame."""
    episode, frame = (table[key][int(row)].as_py() for key in ("episode_index", "frame_index"))
    return f"episode {episode}, frame {frame}"
