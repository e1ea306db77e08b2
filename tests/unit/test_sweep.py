"""A grid and its points."""

import pytest

from getiaction_launch.errors import UsageError
from getiaction_launch.launch.sweep import expand


def test_every_combination_is_a_point():
    """The last axis turns fastest; `seed` is short for `seed_everything`; values stay as typed."""
    points = expand(["model.init_args.lr=1e-5,3e-5", "seed=1,2"], "act")
    assert [point.values for point in points] == [
        {"model.init_args.lr": "1e-5", "seed_everything": "1"},
        {"model.init_args.lr": "1e-5", "seed_everything": "2"},
        {"model.init_args.lr": "3e-5", "seed_everything": "1"},
        {"model.init_args.lr": "3e-5", "seed_everything": "2"},
    ]
    (group,) = {point.group for point in points}
    assert group.startswith("act-")
    assert expand(["seed=1"], "act")[0].group != group


def test_values_may_hold_commas():
    """Lists, mappings and quoted strings are one value each."""
    (first, second, third) = expand(['x=[1,2],{a: 1, b: 2},"a,b"'], "act")
    assert first.values == {"x": "[1,2]"}
    assert second.values == {"x": "{a: 1, b: 2}"}
    assert third.values == {"x": '"a,b"'}


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        (["seed"], "'seed' has no values"),
        (["=1,2"], "has no values"),
        (["seed="], "has no values"),
        (["seed=1", "seed_everything=2"], "seed_everything is given twice"),
        (["x=[1,2"], "invalid values '\\[1,2'"),
    ],
)
def test_what_is_no_axis_is_refused(grid, complaint):
    """The user's own words are named."""
    with pytest.raises(UsageError, match=complaint):
        expand(grid, "act")
