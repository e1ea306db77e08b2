"""Compares samples of datasets."""

from typing import Any

import torch


def assert_same(sample: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that two samples are equal bit for bit, their order and their types included."""
    assert list(sample) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert sample[key].dtype == value.dtype, key
            assert torch.equal(sample[key], value), key
        else:
            assert sample[key] == value, key
