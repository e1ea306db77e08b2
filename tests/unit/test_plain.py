"""Dataclasses are read from plain data, and what does not fit is named."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass


class Color(str, Enum):
    """An enumeration."""

    RED = "red"


@dataclass(frozen=True)
class Inner:
    """A nested dataclass."""

    seconds: float


@dataclass(frozen=True)
class Outer:
    """One field of each kind."""

    name: str
    inner: Inner
    count: int = 3
    color: Color | None = None
    when: Literal["wait", "skip"] = "wait"
    words: list[str] = field(default_factory=list)
    by_name: dict[str, float] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)
    is_on: bool = False
    inners: list[Inner] | None = None


def test_everything_that_was_written_is_read():
    """Nested dataclasses, enumerations, lists and mappings; a whole number fits a float."""
    content = {
        "name": "a",
        "inner": {"seconds": 2},
        "color": "red",
        "when": "skip",
        "words": ["b"],
        "by_name": {"loss": 0.5},
        "anything": {"x": [1, {"y": None}]},
        "is_on": True,
        "inners": [{"seconds": 1.5}],
    }
    read = read_dataclass(Outer, content, "f.json")
    assert read == Outer(
        name="a",
        inner=Inner(2),
        color=Color.RED,
        when="skip",
        words=["b"],
        by_name={"loss": 0.5},
        anything=content["anything"],
        is_on=True,
        inners=[Inner(1.5)],
    )


def test_a_number_may_have_the_other_form():
    """JSON knows one kind of number: 3.0 is a whole one, and 3 may stand for seconds."""
    read = read_dataclass(Outer, {"name": "a", "inner": {"seconds": 1}, "count": 3.0}, "f.json")
    assert (read.count, type(read.count), type(read.inner.seconds)) == (3, int, float)


def test_keys_of_other_versions_are_ignored_and_defaults_fill_in():
    """A file of another version has more keys, or fewer."""
    read = read_dataclass(Outer, {"name": "a", "inner": {"seconds": 1, "new": 1}, "x": 2}, "f.json")
    assert read == Outer("a", Inner(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "f.json: name=3 must be text."),
        ({"inner": []}, "f.json: inner=[] must be a mapping."),
        ({"inner": {}}, "f.json: the key inner.seconds is missing."),
        ({"inner": {"seconds": "1"}}, "f.json: inner.seconds='1' must be a number."),
        ({"inner": {"seconds": True}}, "f.json: inner.seconds=True must be a number."),
        ({"count": 1.5}, "f.json: count=1.5 must be a whole number."),
        ({"count": None}, "f.json: count=None must be a whole number."),
        ({"color": "blue"}, "f.json: color='blue' must be one of red."),
        ({"color": []}, "f.json: color=[] must be one of red."),
        ({"color": {}}, "f.json: color={} must be one of red."),
        ({"when": "never"}, "f.json: when='never' must be one of wait, skip."),
        ({"words": ["b", 1]}, "f.json: words[1]=1 must be text."),
        ({"words": "b"}, "f.json: words='b' must be a list."),
        ({"by_name": {"loss": "x"}}, "f.json: by_name.loss='x' must be a number."),
        ({"is_on": 1}, "f.json: is_on=1 must be true or false."),
        ({"name": "x" * 9, "inner": "y" * 99}, "..."),
    ],
)
def test_what_does_not_fit_is_named_with_file_and_key(change, words):
    """A damaged value is a RecordError that names file, key, value and what it should be."""
    with pytest.raises(RecordError) as error:
        read_dataclass(Outer, {"name": "a", "inner": {"seconds": 1}, **change}, "f.json")
    assert words in str(error.value)
    with pytest.raises(RecordError, match="must be a mapping"):
        read_dataclass(Outer, [1, 2], "f.json")
