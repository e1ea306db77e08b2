"""What the first steps of a program make of weights: NaN, or nothing at all."""

import sys
from typing import Any

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import own_call
from getiaction_launch.checking.loading.batches import hash_of
from getiaction_launch.checking.source.source import Source
from getiaction_launch.checking.weights.hidden import Hidden, hidden_in, trained_here
from getiaction_launch.checking.weights.nan import has_nan, looks_for_nan, reason


class Steps:
    """Looks at weights behind the first step of an optimizer, and behind its second one.

    Args:
        source: The program, as it was read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hidden: list[tuple[Hidden, str | None]] = []

    def begin(self, optimizer: Any) -> Finding | None:  # noqa: ANN401 - one of torch
        """Return the refusal of a first step that has led to NaN.

        Args:
            optimizer: The optimizer that has just made its first step.
        """
        modules, known = trained_here()
        self._hidden = [(each, hash_of(each.weights)) for each in hidden_in(modules, known)]
        if not has_nan(optimizer):
            return None
        place = own_call(sys._getframe(1))  # noqa: SLF001 - nothing has been raised
        at = shown(place) if place else self._source.name
        why, fix = reason(modules)
        # It may put back what was there before.
        judged = doubt if looks_for_nan(self._source.text) else refusal
        what = f"{at}: the weights are NaN after the first optimizer step{why}."
        return judged("training", at.partition(" ")[0], what, fix)

    def hidden(self) -> list[Finding]:
        """Return what is wrong with weights that have got gradients, and that no step changes."""
        found = []
        for each, content in self._hidden:
            if content is not None and hash_of(each.weights) == content:
                judged = refusal if each.is_trained else doubt
                what = f"{self._source.name}: {each.what}"
                found.append(judged("training", each.name, what, each.fix))
        return found
