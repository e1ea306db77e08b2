"""What a script's own parser of jsonargparse has said before it ended, as that of LightningCLI."""

import re
from dataclasses import replace
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.parsers.specs import refusal_of_said

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"<class '([\w.]+)'>")
_NESTED = re.compile(r"NestedArg\(key='(.+?)', val='?(.*?)'?\)")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Given value type:")
"""Beginnings of lines about types, which nobody has written."""
_NO_VALUE = "Expected a <class 'NoneType'>"
_LONGEST = 300


def refusal_of_parser(said: str, script: str) -> Finding | None:
    """Return the refusal that a message of jsonargparse stands for; None for another one.

    Args:
        said: What the script has written to stderr.
        script: Path of the script.
    """
    message = said.rpartition("error: ")[2].strip()
    if not (key := _KEY.match(message)):
        return None
    name = Path(script).name
    lines = [each for each in message.splitlines() if not each.strip().startswith(_NOISE)]
    text = "\n".join(each for each in lines if each.strip(" -") and not each.endswith(_NO_VALUE))
    text = _KEY.sub(r"\1:", _NESTED.sub(r"\1=\2", _CLASS.sub(r"\1", text)))
    help_of_script = f"See what it takes: python {script} --help"
    if unknown := _UNKNOWN.search(text):
        what = f"{name}: {key[1]} has no key {unknown[1]!r}."
        return refusal("training", key[1], what, help_of_script)
    if found := refusal_of_said(text):
        return replace(found, check="training", evidence=f"{name}: {found.evidence}")
    what = f"{name}: it ends with: {' '.join(text.split())[:_LONGEST]}"
    return refusal("training", key[1], what, help_of_script)
