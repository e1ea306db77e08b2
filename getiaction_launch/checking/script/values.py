"""Values of a script's options: those that argparse refuses, and those that it takes for others."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.source import Source

_NUMBERS = {"int": int, "float": float}
_KINDS = {"int": "a whole number", "float": "a number"}
_NO = {"false", "0", "no", "off", "n", "f", "none", "null"}
"""Words by which people mean False; each of them is true, as only an empty text is not."""
_STORES = (None, "store", "append")
"""Actions of an argument that takes one value."""
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
"""What argparse takes for a value although it begins with a dash."""


def check_values(
    source: Source, adding: Sequence[ast.Call], words: Sequence[str]
) -> Iterator[Finding]:
    """Find values that a script's only parser refuses or misunderstands.

    Args:
        source: The script, as it was read.
        adding: The calls that add arguments to that parser.
        words: The arguments of the script.
    """
    own = [*words[: words.index("--") if "--" in words else None]]
    names = [name for call in adding for name in _names_of(call, source)]
    for call in adding:
        for option in _names_of(call, source):
            if names.count(option) == 1 and option.startswith("-"):
                for value in _given(option, own):
                    for finding in _of_value(call, option, value, source):
                        yield source.judged(finding, call)


def _names_of(call: ast.Call, source: Source) -> list[str]:
    return [str(source.constants.value_of(each)) for each in call.args]


def _given(option: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the values that an option, written in full, gets on a command line."""
    for word, following in zip(words, [*words, "-"][1:], strict=True):
        name, is_assigned, value = word.partition("=")
        if name == option and is_assigned and option.startswith("--"):
            yield value
        elif word == option and (following[:1] != "-" or _NEGATIVE.fullmatch(following)):
            yield following


def _of_value(call: ast.Call, option: str, value: str, source: Source) -> Iterator[Finding]:
    written = {word.arg: word.value for word in call.keywords}
    given = source.constants.arguments_of(call)
    takes_one = given.get("action") in _STORES and not ({"nargs", None} & set(written))
    if not takes_one or ("action" in written and given["action"] is None):
        return
    kind = ast.unparse(written["type"]) if "type" in written else "str"
    at, shown = source.at(call), f"{option} {value}"
    if kind == "bool" and value.lower() in _NO:
        name = option.lstrip("-")
        what = f"{at}: {option} is True with {shown}: type=bool takes each text but an empty one "
        what += "for True."
        fix = f"add_argument({option!r}, action=argparse.BooleanOptionalAction), and --no-{name}"
        yield refusal("script", option, what, fix)
        return
    if kind in _NUMBERS and not _is_number(value, kind):
        what = f"{at}: {option} takes {_KINDS[kind]}, and {value!r} is not one: the script would "
        yield refusal("script", option, f"{what}end at once.", _fix(option, value, given))
        return
    choices = given.get("choices")
    if isinstance(choices, (list, tuple, set)) and kind in ("str", *_NUMBERS):
        meant = _NUMBERS[kind](value) if kind in _NUMBERS else value
        if choices and meant not in choices:
            valid = sorted(map(str, choices))
            what = f"{at}: {shown} is none of {', '.join(valid)}: the script would end at once."
            yield refusal("script", option, what, f"{option} {valid[0]}")


def _is_number(value: str, kind: str) -> bool:
    try:
        _NUMBERS[kind](value)
    except ValueError:
        return False
    return True


def _fix(option: str, value: str, given: Mapping[str, Any]) -> str:
    """Return what to write instead of what is not a number, such as several of them."""
    if "," in value:
        return f"For a run with each of them: --sweep {option.lstrip('-')}={value}"
    default = given.get("default")
    return f"{option} {1 if default is None else default}"
