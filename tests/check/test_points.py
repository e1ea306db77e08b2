"""The points of a sweep are judged as the parser of specs judges each of them alone."""

import itertools
from argparse import ArgumentError

import pytest

from getiaction_launch.checking import points
from getiaction_launch.checking.points import judge_points
from getiaction_launch.errors import SpecError
from getiaction_launch.launch.submit import prepare
from getiaction_launch.launch.sweep import expand
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import parse

SPEC = """\
trainer: {accelerator: cpu, max_epochs: 1}
model: {class_path: mine.Mine, init_args: {lr: 0.1}}
"""
MINE = """\
from typing import Literal, Optional
from lightning.pytorch.demos.boring_classes import BoringModel

class Mine(BoringModel):
    def __init__(self, lr: float, kind: Literal["a", "b"] = "a", size: Optional[int] = None,
                 sizes: Optional[list[int]] = None, name: str = "x", bare=1, **more: int):
        super().__init__()
"""
VALUES = ("1", "1e-3", "true", "null", "a", "[1,2]", "'1'", "{x: 1}", "''")
PLAIN = (
    *("seed_everything", "trainer.max_epochs", "trainer.precision"),
    *("model.init_args.lr", "model.kind", "model.init_args.size", "model.name"),
)
KEYS = (*PLAIN, "model.sizes", "model.init_args.bare", "ckpt_path")


@pytest.fixture(autouse=True)
def _spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "act.yaml").write_text(SPEC)
    (tmp_path / "mine.py").write_text(MINE)


def plans_of(*grid: str, overrides=()) -> list[Plan]:
    """The plans of a sweep of the spec."""
    found = [
        prepare(config=["act.yaml"], overrides=overrides, sweep=point)[0]
        for point in expand(grid, "act")
    ]
    assert found
    return found


@pytest.fixture
def parsed(monkeypatch) -> list[list[str]]:
    """The arguments that the whole parser has parsed."""
    seen: list[list[str]] = []
    whole = points.print_parsed

    def note(parse_words, arguments):
        seen.append(list(arguments))
        return whole(parse_words, arguments)

    monkeypatch.setattr(points, "print_parsed", note)
    return seen


@pytest.mark.parametrize("key", KEYS)
def test_what_is_taken_for_its_type_alone_is_taken_by_the_whole_parser(monkeypatch, key):
    """For any type and any value: nothing is accepted that would be refused in full."""
    refused, taken = [], []
    whole, takes_all = points.print_parsed, points._Fitting.takes_all

    def parse_all(parse_words, arguments):
        try:
            return whole(parse_words, arguments)
        except ArgumentError:
            refused.append(list(arguments))
            return {}

    def note(fitting, values):
        taken.append((dict(values), takes_all(fitting, values)))
        return False  # so that it is parsed in full, too

    monkeypatch.setattr(points, "print_parsed", parse_all)
    monkeypatch.setattr(points._Fitting, "takes_all", note)
    good = {"kind": "b", "precision": "32", "ckpt_path": "null"}.get(key.rpartition(".")[2], "3")
    plans = [plan for text in (good, *VALUES) for plan in plans_of(f"{key}={text}")]
    judge_points(plans)
    assert len(taken) == len(VALUES)
    wrongly = [
        values
        for plan, (values, is_taken) in zip(plans[1:], taken, strict=True)
        if is_taken and plan.arguments in refused
    ]
    assert wrongly == []
    assert any(is_taken for _, is_taken in taken) == (key in PLAIN)


@pytest.mark.parametrize("axis", ["model.init_args.kind=b,c", "model.none=1,2", "model.name=a,[1]"])
def test_the_error_of_a_point_is_that_of_its_run_alone(axis):
    """Word for word, with the nearest keys."""
    plans = plans_of(axis)
    with pytest.raises(SpecError) as alone:
        parse(plans[1].arguments)
    with pytest.raises(SpecError) as among_others:
        judge_points(plans)
    assert str(among_others.value) == str(alone.value)


def test_a_grid_of_plain_values_is_parsed_once(parsed):
    """Numbers and words are judged by their own types, those of the user's class included."""
    plans = plans_of("seed=1,2,3", "model.init_args.lr=1e-3,1", "model.kind=a,b")
    judge_points(plans)
    assert parsed == [plans[0].arguments]


def test_a_point_with_another_class_is_parsed_in_full(parsed):
    """What its other keys must be follows from the class."""
    plans = plans_of("model=mine.Mine,lightning.pytorch.demos.boring_classes.DemoModel", "seed=1,2")
    judge_points(plans)
    assert parsed == [plan.arguments for plan in plans]


def test_points_that_differ_elsewhere_are_parsed_in_full(parsed):
    """Only what the sweep sets may differ from the first point."""
    plans = plans_of("seed=1") + plans_of("seed=2", overrides=[("trainer.max_epochs", "2")])
    judge_points(plans)
    assert parsed == [plan.arguments for plan in plans]


def test_the_wrong_point_may_be_any(parsed):
    """Also the last one is judged, and its error names its own value."""
    plans = plans_of("seed=1,2,3", "trainer.max_epochs=1,few")
    with pytest.raises(SpecError, match="few"):
        judge_points(plans)
    bad = [plan.arguments for plan in plans if plan.sweep.values["trainer.max_epochs"] == "few"]
    assert parsed == list(itertools.chain([plans[0].arguments], bad[:1]))
