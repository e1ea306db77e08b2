"""Losses of predictions and targets of two shapes, which torch broadcasts to a third one."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.frames import own_call
from getiaction_launch.checking.lightning_seams import watching_losses

_SHAPES = re.compile(
    r"Using a target size \(torch\.Size\(\[(.*?)\]\)\).* input size \(torch\.Size\(\[(.*?)\]\)\)"
)


@contextlib.contextmanager
def noting_shapes(found: list[Finding]) -> Iterator[None]:
    """Note each line of the user's that has torch warn of two shapes.

    Args:
        found: List to which a doubt is added for each such line.
    """
    seen: set[str] = set()

    def note(text: str) -> None:
        shapes, at = _SHAPES.match(text), _own_line()
        if shapes and at and at not in seen:
            seen.add(at)
            found.append(_doubt(at, *(_sizes(each) for each in shapes.groups())))

    with watching_losses(note):
        yield


def _doubt(at: str, target: tuple[int, ...], prediction: tuple[int, ...]) -> Finding:
    import torch

    try:
        together = torch.broadcast_shapes(target, prediction)  # type: ignore[no-untyped-call]
        whole = f", which torch broadcasts to {(*together,)}"
    except RuntimeError:  # the loss fails, which says more
        whole = ""
    by = "prediction.squeeze(-1)" if prediction == (*target, 1) else "target.view_as(prediction)"
    return doubt(
        "loss",
        at,
        f"{at}: in a trial the target has the shape {target} and the prediction {prediction}"
        f"{whole}, so that predictions are compared with the targets of other samples.",
        f"Give both the same shape before the loss, for example by {by}",
    )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(",") if each.strip())


def _own_line() -> str | None:
    """Return file and line of the user's own code that is running."""
    place = own_call(sys._getframe(1))  # noqa: SLF001 - nothing has been raised
    return place and f"{Path(place[0]).name}:{place[1]}"
