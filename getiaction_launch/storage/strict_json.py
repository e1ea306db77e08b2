"""JSON as every reader accepts it: Python's own writer has numbers that JSON does not.

A loss can become NaN or infinite. Python writes those as bare words, which jq, browsers and the
parsers of other languages refuse, and with them the whole document. Here they are text, spelled as
in protobuf's JSON: ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. Where a record's field is a
number, :func:`~getiaction_launch.plan.plain.read_dataclass` reads that text as the number again,
and the bare words of earlier versions too.
"""

import json
import math
from collections.abc import Mapping


def dumps(content: object, indent: int | None = None) -> str:
    """Return JSON text without numbers that are not finite.

    Args:
        content: What the text shall hold, as for ``json.dumps``.
        indent: How far each level is indented, in spaces; None for a single line.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: object) -> object:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else f"{'-' * (content < 0)}Infinity"
    return content
