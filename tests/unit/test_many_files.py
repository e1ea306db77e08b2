"""Datasets of many files are opened file by file only once, and the file that is wrong is named."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import refusal

from getiaction.data import LeRobotDataset, columns

NUMBER = "data/chunk-000/episode_{:06d}.parquet"


def test_each_data_file_is_opened_once(v21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its schema and its columns are read from the same open file."""
    opened: Counter[str] = Counter()
    original = pa.OSFile

    def count(path: str, *args: Any) -> Any:
        opened[path] += 1
        return original(path, *args)

    monkeypatch.setattr(pa, "OSFile", count)
    dataset = LeRobotDataset(root=v21)
    files = sorted(map(str, (v21 / "data").rglob("*.parquet")))
    assert len(files) == dataset.num_episodes > 2
    assert opened == dict.fromkeys(files, 1)


def test_the_file_that_is_wrong_is_named(v21: Path) -> None:
    """Files are converted together, but the message has the one with the wrong column."""
    table = pq.read_table(v21 / NUMBER.format(1))
    place = table.column_names.index("observation.state")
    short = [row[:-1] for row in table["observation.state"].to_pylist()]
    kind = table.schema.field(place).type
    lists = [pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind]
    for number in (0, 1, 2):  # of the same type, so that they are one group
        file = v21 / NUMBER.format(number)
        table = pq.read_table(file)
        rows = short if number == 1 else table["observation.state"].to_pylist()
        column = pa.array(rows, lists[0])
        pq.write_table(table.set_column(place, "observation.state", column), file)
    message = refusal(v21)
    assert NUMBER.format(1) in message
    assert "episode 1, frame 0" in message


def test_groups_of_files_are_bounded(v21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small groups, and files of different types, make the same rows."""
    whole = LeRobotDataset(root=v21)
    monkeypatch.setattr(columns, "ROWS_PER_GROUP", 1)
    parts = LeRobotDataset(root=v21)
    for key, column in whole._columns.items():
        assert np.all(parts._columns[key] == column), key
