"""The points of a sweep are judged: the first one by the whole parser, the others by what differs.

Parsing a spec takes tenths of a second, most of which is spent on reading the signatures of all
classes that it could name. In a sweep, only a few values differ. A value whose type is plain, such
as a number or one of several words, fits whatever the other keys are, so it is enough that the
parser takes it for its own key. Everything else is parsed in full: a value of another type, such as
a class, a key that is not found, and each value that does not fit, so that its error is the
parser's own.
"""

import contextlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from getiaction_launch.checking.lightning_seams import fit_parser, types_of_keys
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import load, print_parsed, run_cli

_PLAIN = (bool, int, float, str, type(None))
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))


class _JudgedError(Exception):
    """All points have been judged, and nothing shall be built."""


def judge_points(plans: Sequence[Plan]) -> dict[str, object]:
    """Judge every key and type of the points of a sweep by the parser that will run them.

    Imports torch, Lightning and the user's classes, which takes seconds.

    Args:
        plans: The plans of all points, which have a spec.

    Returns:
        The spec of the first point as the parser understands it, with all defaults.

    Raises:
        SpecError: Naming the first key that is unknown or whose value does not fit, as
            :func:`getiaction_launch.plan.spec.parse` does.
    """
    spec: dict[str, object] = {}

    def derive(kind: Any) -> Any:  # noqa: ANN401 - a LightningCLI
        class Judging(kind):  # type: ignore[misc] # the class is known at run time only
            def parse_arguments(self, parser: Any, _: object) -> None:  # noqa: ANN401
                def parse_words(words: Sequence[str]) -> None:
                    super(Judging, self).parse_arguments(parser, ["fit", *words])

                nonlocal spec
                first, *others = plans
                spec = print_parsed(parse_words, first.arguments)
                fitting = _Fitting(types_of_keys(fit_parser(self)), spec)
                same = _without_point(first)
                for plan in others:
                    if _without_point(plan) != same or not fitting.takes_all(_values(plan)):
                        print_parsed(parse_words, plan.arguments)
                raise _JudgedError

        return Judging

    with contextlib.suppress(_JudgedError):
        run_cli(plans[0].arguments, derive)
    return spec


def _values(plan: Plan) -> Mapping[str, str]:
    return plan.sweep.values if plan.sweep else {}


def _without_point(plan: Plan) -> list[str]:
    """Return a plan's arguments, with only the keys of those that the sweep sets."""
    own = {f"--{key}={value}": f"--{key}" for key, value in _values(plan).items()}
    return [own.get(word, word) for word in plan.arguments]


class _Fitting:
    """Knows whether a value alone fits its key.

    Args:
        types_by_key: The type of each key of the parser.
        spec: The spec of the first point as it was parsed, whose classes all points have.
    """

    def __init__(self, types_by_key: Mapping[str, object], spec: Mapping[str, object]) -> None:
        self._types = dict(types_by_key)
        self._spec = spec
        self._known: dict[tuple[str, str], bool] = {}

    def takes_all(self, values: Mapping[str, str]) -> bool:
        """Return whether each value certainly fits; if not, the whole parser has to judge."""
        return all(self._takes(key, text) for key, text in values.items())

    def _takes(self, key: str, text: str) -> bool:
        if (key, text) not in self._known:
            self._known[key, text] = self._fits(key, text)
        return self._known[key, text]

    def _fits(self, key: str, text: str) -> bool:
        import jsonargparse  # slow to import
        import yaml

        kind = self._type_of(key)
        if not _is_plain(kind):
            return False
        try:
            # Beware: a class takes no list or mapping for text, although the parser itself would.
            if not isinstance(load(text), _PLAIN):
                return False
        except yaml.YAMLError:
            return False
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=kind)
        try:
            parser.parse_args([f"--value={text}"])
        except jsonargparse.ArgumentError:
            return False
        return True

    def _type_of(self, key: str) -> object:
        """Return the type of a key, or of an argument of the class that a section names."""
        section, _, name = key.partition(".")
        if key not in self._types and name:
            named = self._spec.get(section)
            path = named.get("class_path") if isinstance(named, Mapping) else None
            if isinstance(path, str):
                self._read_class(section, path)
        return self._types.get(key)

    def _read_class(self, section: str, path: str) -> None:
        import jsonargparse  # slow to import

        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        with contextlib.suppress(Exception):  # the whole parser says what is wrong with it
            parser.add_class_arguments(_import(path), fail_untyped=False)  # as LightningCLI does
        for name, kind in types_of_keys(parser).items():
            self._types[f"{section}.{name}"] = self._types[f"{section}.init_args.{name}"] = kind


def _import(path: str) -> Any:  # noqa: ANN401 - a class or a function
    import importlib

    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _is_plain(kind: object) -> bool:
    """Return whether values of a type are scalars, which no other key and no class can change."""
    if typing.get_origin(kind) in _UNIONS:
        return all(map(_is_plain, typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(word, _PLAIN) for word in typing.get_args(kind))
    return kind in _PLAIN
