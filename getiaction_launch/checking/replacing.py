"""Other code in place of a library's own, for as long as a program is tried."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(owner: object, **attributes: object) -> Iterator[None]:
    """Set attributes in the context, and what they were behind it.

    Args:
        owner: A module or a class.
        **attributes: What each attribute is meanwhile.
    """
    before = {name: getattr(owner, name) for name in attributes}
    _set(owner, attributes)
    try:
        yield
    finally:
        _set(owner, before)


def _set(owner: object, attributes: dict[str, object]) -> None:
    for name, value in attributes.items():
        setattr(owner, name, value)
