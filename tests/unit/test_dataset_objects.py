"""Columns that are neither numbers nor images are Python objects; everything else is unchanged."""

import datetime as dt
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from getiaction.data import Collate, DatasetError, LeRobotDataModule, LeRobotDataset
from getiaction.policies import ACT
from getiaction.train import Trainer

DATA = Path(__file__).parents[1] / "data" / "lerobot"
MANY = DATA / "many_features_v30"

EVENTS = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string()),
            pa.field("style", pa.string()),
            pa.field("camera", pa.string()),
            pa.field("tool_calls", pa.list_(pa.string())),
        ]
    )
)
CALL = {"type": "function", "function": {"name": "say", "arguments": {"text": "hello"}}}
EVENT = {"role": "user", "content": "stop", "style": "interjection", "camera": None}
SAID = [{**EVENT, "tool_calls": [CALL]}, {**EVENT, "tool_calls": None}]
STORED = [{**EVENT, "tool_calls": [json.dumps(CALL)]}, {**EVENT, "tool_calls": None}]

# dtype, shape, Arrow type, values in turn, and what samples have.
COLUMNS: dict[str, tuple[str, list[int], pa.DataType, list[Any], list[Any]]] = {
    "language_events": ("language", [1], EVENTS, [STORED, [], None], [SAID, [], None]),
    "texts": ("string", [2], pa.list_(pa.string()), [["a", "b"], ["c"]], [["a", "b"], ["c"]]),
    "nested": (
        "ragged",
        [1],
        pa.list_(pa.list_(pa.int8())),
        [[[1], [2, 3]], []],
        [[[1], [2, 3]], []],
    ),
    "binary": ("binary", [1], pa.binary(), [b"\0\1", None], [b"\0\1", None]),
    "audio": (
        "audio",
        [1],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        [{"bytes": b"RIFF", "path": None}],
        [{"bytes": b"RIFF", "path": None}],
    ),
    "empty": ("null", [1], pa.null(), [None], [None]),
    "time": (
        "timestamp[us]",
        [1],
        pa.timestamp("us"),
        [dt.datetime(2026, 1, 2)],  # noqa: DTZ001 - stored without a zone
        [dt.datetime(2026, 1, 2)],  # noqa: DTZ001 - as above
    ),
    "note": ("string", [1], pa.string(), ["x", None], ["x", None]),
    "dictionary": ("string", [1], pa.dictionary(pa.int8(), pa.string()), ["y", "x"], ["y", "x"]),
    "observation.language": ("language", [1], pa.list_(pa.string()), [["z"]], [["z"]]),
}


def with_columns(folder: Path, names: list[str], source: Path = MANY) -> Path:
    """Write a dataset with more columns."""
    root = Path(shutil.copytree(source, folder / "objects"))
    info = json.loads((root / "meta" / "info.json").read_text())
    start = 0
    for file in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(file)
        for name in names:
            dtype, shape, kind, values, _ = COLUMNS[name]
            rows = [values[(start + i) % len(values)] for i in range(len(table))]
            table = table.append_column(name, pa.array(rows, kind))
            info["features"][name] = {"dtype": dtype, "shape": shape, "names": None}
        pq.write_table(table, file)
        start += len(table)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare samples."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        same = torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value
        assert same, key


def test_objects_are_returned_and_everything_else_is_equal(tmp_path: Path) -> None:
    """Language rows, lists, bytes, audio, nulls and dates come as Python's types, as in lerobot."""
    dataset = LeRobotDataset(root=with_columns(tmp_path, list(COLUMNS)))
    plain = LeRobotDataset(root=MANY)
    assert dataset.stats == plain.stats
    for index in (0, 1, 5, len(plain) - 1):
        sample = dataset[index]
        found = {key: sample.pop(key) for key in COLUMNS}
        assert found == {key: c[4][index % len(c[4])] for key, c in COLUMNS.items()}
        assert_equal(sample, plain[index])


def test_objects_may_be_stacked(tmp_path: Path) -> None:
    """With frame offsets, objects come as a list of each frame's."""
    dataset = LeRobotDataset(root=with_columns(tmp_path, ["language_events"]))
    dataset.delta_indices = {"language_events": [0, 1]}
    assert dataset[0]["language_events"] == [SAID, []]


def test_objects_are_lists_in_a_batch(tmp_path: Path) -> None:
    """The loaders of the datamodule and `Collate` keep objects; torch's own collation cannot."""
    root = with_columns(tmp_path, list(COLUMNS))
    data = LeRobotDataModule(root=root, train_batch_size=3, num_workers=0, val_split=0.3)
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert len(batch["language_events"]) == 3
        assert batch["action"].shape[0] == 3
    dataset = data.train_dataset
    assert dataset is not None
    data.train_dataset = Subset(dataset, [0, 1, 2])  # as users do it
    assert len(next(iter(data.train_dataloader()))["language_events"]) == 3
    own = DataLoader(dataset, batch_size=2, collate_fn=Collate(dataset.object_keys), num_workers=1)
    assert next(iter(own))["nested"] == [[[1], [2, 3]], []]


def test_a_policy_trains_beside_columns_that_it_does_not_need(tmp_path: Path) -> None:
    """The dataset of a language-annotated recording trains like one without annotations."""
    root = with_columns(tmp_path, list(COLUMNS), DATA / "images_only_v30")
    losses = []
    for folder in (root, DATA / "images_only_v30"):
        torch.manual_seed(0)
        policy = ACT(
            chunk_size=2,
            n_action_steps=2,
            dim_model=8,
            n_heads=2,
            dim_feedforward=8,
            image_size=None,
            pretrained_backbone_weights=None,
        )
        trainer = Trainer(
            max_steps=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        data = LeRobotDataModule(root=folder, train_batch_size=2, num_workers=0)
        trainer.fit(policy, datamodule=data)
        losses.append(trainer.callback_metrics["train/loss"])
    assert losses[0].isfinite()
    assert losses[0] == losses[1]


def test_a_column_may_have_other_types_in_other_files(tmp_path: Path) -> None:
    """Files with null or wider types are joined; others are named, both of them."""
    root = with_columns(tmp_path, ["note", "texts"])
    first, second = sorted((root / "data").rglob("*.parquet"))
    table = pq.read_table(second)
    for name, kind in (
        ("note", pa.null()),
        ("texts", pa.large_list(pa.large_string())),
    ):
        values = pa.nulls(len(table)) if kind == pa.null() else table[name].cast(kind)
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, second)
    last = LeRobotDataset(root=root)[-1]
    assert last["note"] is None
    assert last["texts"] in (["a", "b"], ["c"])
    place = table.column_names.index("texts")
    pq.write_table(table.set_column(place, "texts", table["timestamp"]), second)
    with pytest.raises(DatasetError, match=f"{second}: column .texts. does not hold string"):
        LeRobotDataset(root=root)
    edited = json.loads((root / "meta" / "info.json").read_text())
    edited["features"]["texts"]["dtype"] = "other"
    (root / "meta" / "info.json").write_text(json.dumps(edited))
    with pytest.raises(
        DatasetError, match=rf"{second}: .*holds float, but in {first} it holds list"
    ):
        LeRobotDataset(root=root)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float64(), pa.large_list(pa.float32())])
def test_numbers_may_have_other_types_in_other_files(tmp_path: Path, kind: pa.DataType) -> None:
    """Numbers of another width, or lists with other offsets, are the same numbers."""
    root = Path(shutil.copytree(MANY, tmp_path / "mixed"))
    file = max((root / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    key = "observation.environment_state"
    lists = kind if pa.types.is_nested(kind) else pa.list_(kind)
    values = pa.array([[0.5, -2.0]] * len(table), lists)
    pq.write_table(table.set_column(table.column_names.index(key), key, values), file)
    assert LeRobotDataset(root=root)[-1][key].tolist() == [0.5, -2.0]
