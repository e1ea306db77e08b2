"""Writes specs as YAML with plain texts and numbers, also where one is of a subclass of these.

Lightning's ``Timer`` has ``interval: str = Interval.step``, a member of an enumeration, and a
learning rate may be a ``numpy.float64``. PyYAML has no form for either, so the parser could not
print the spec (``--print_config``), nor Lightning save it as config.yaml.
"""

from typing import Any

import jsonargparse
import yaml


class _Dumper(yaml.SafeDumper):
    pass


# Beware: str() would return how the member of an enumeration is shown, "Mode.FAST".
_Dumper.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str.__str__(value)))
_Dumper.add_multi_representer(int, lambda dumper, value: dumper.represent_int(int.__int__(value)))
_Dumper.add_multi_representer(
    float, lambda dumper, value: dumper.represent_float(float.__float__(value))
)


def write_plain_values() -> None:
    """Have every parser of jsonargparse in this process write YAML in this way."""
    jsonargparse.set_dumper("yaml", _dump)


def _dump(content: Any) -> str:  # noqa: ANN401 - whatever a spec holds
    # But for the class, as jsonargparse does.
    return yaml.dump(
        content,
        Dumper=_Dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
