"""Ways to damage the copy of a dataset, and what opening it says then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from getiaction.data import DatasetError, LeRobotDataset

DATA = Path(__file__).parents[1] / "data" / "lerobot"
INFO = "meta/info.json"
STATS = "meta/stats.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
ROWS = "data/chunk-000/file-000.parquet"


def refusal(root: Path, **kwargs: Any) -> str:
    """Return what opening a damaged dataset says, without reading a sample."""
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset(root=root, **kwargs)
    return str(caught.value)


def edit(root: Path, key: str, change: Callable[[list[Any]], list[Any]], name: str = ROWS) -> None:
    """Change the values of one column of a parquet file."""
    table = pq.read_table(root / name)
    values = change(table[key].to_pylist())
    kind = table[key].type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
    column = pa.array(values, kind)
    pq.write_table(table.set_column(table.column_names.index(key), key, column), root / name)


def replaced(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a change of one row's value."""
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change meta/info.json in place."""
    info = json.loads((root / INFO).read_text())
    change(info)
    (root / INFO).write_text(json.dumps(info))
