"""What training gathers beside the weights, and no checkpoint has: averages, buffers of samples.

After a restart it begins anew, and with it what depends on it.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.counters import depended_on, hooks_of
from getiaction_launch.checking.classes.sources import own_attributes
from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.errors import counted

_Place = tuple[int, str]
"""The number of an owner, and the name of one of its attributes."""


class Unsaved:
    """Looks at attributes of callbacks and of the model while a trial trains them.

    Args:
        built: What the spec names.
    """

    def __init__(self, built: Built) -> None:
        self._built = built
        self._owners: list[Any] = [*built.trainer.callbacks, built.model]
        hooks = [hooks_of(owner) for owner in self._owners]
        self._gathered = [depended_on(each) for each in hooks]
        self._used = [{name for hook in each for name in own_attributes(hook)} for each in hooks]
        self._before: dict[_Place, object] = {}
        self._found: dict[_Place, Finding] = {}

    def note_before(self) -> None:
        """Remember each attribute before a batch is trained with it for the first time."""
        for place, value, tensors in self._each():
            if place not in self._before:
                self._before[place] = _mark(value, tensors)

    def note_after(self) -> None:
        """Find what has changed or grown, and is still there where training ends."""
        for place, value, tensors in self._each():
            if place in self._before and self._before[place] != _mark(value, tensors):
                self._found[place] = self._judged(self._owners[place[0]], place[1], value)

    def find(self) -> Iterator[Finding]:
        """Yield a doubt for each of them."""
        yield from self._found.values()

    def _each(self) -> Iterator[tuple[_Place, Any, list[Any]]]:
        """Yield the attributes that training uses: lists, and what has weights, with these."""
        for number, owner in enumerate(self._owners):
            for name in sorted(vars(owner).keys() & self._used[number]):
                value = vars(owner)[name]
                if type(value) in (list, deque):
                    if name in self._gathered[number]:
                        yield (number, name), value, []
                elif tensors := self._weights_of(value):
                    yield (number, name), value, tensors

    def _weights_of(self, value: object) -> list[Any]:
        """Return the tensors of a module, or of a dict of weights, unless the model has them."""
        from torch import Tensor, nn
        from torchmetrics import Metric

        model, tensors = self._built.model, list[Any]()
        if isinstance(value, nn.Module) and not isinstance(value, Metric):
            tensors = [*value.parameters(), *value.buffers()]
        elif isinstance(value, dict) and all(isinstance(each, Tensor) for each in value.values()):
            names = [name for name, _ in model.named_parameters()]
            known = {name[at:] for name in names for at in range(len(name))}
            tensors = [*value.values()] if known.issuperset(value) else []
        own = {id(each) for each in (*model.parameters(), *model.buffers())}
        return [] if own.intersection(map(id, tensors)) else tensors

    def _judged(self, owner: object, name: str, value: Any) -> Finding:  # noqa: ANN401 - of any kind
        kind = type(owner).__name__
        is_gathered = isinstance(value, (list, deque))
        what = f"changes the weights in self.{name}"
        if is_gathered:
            what = f"has gathered {counted(len(value), 'item')} in self.{name}"
        state = f"list(self.{name})" if is_gathered else f"self.{name}"
        state += ".state_dict()" if hasattr(value, "state_dict") else ""
        fix = f'def state_dict(self): return {{"{name}": {state}}}, and load_state_dict'
        if owner is self._built.model:
            fix = f'In on_save_checkpoint: checkpoint["{name}"] = {state}, and on_load_checkpoint'
        return doubt(
            "checkpoints",
            name,
            f"{kind} {what} in training, and no checkpoint has them: after a restart they begin "
            "anew.",
            fix,
        )


def _mark(value: Any, tensors: list[Any]) -> object:  # noqa: ANN401 - of any kind
    """Return what shows that a list has grown, or that weights have changed."""
    # As text, since NaN does not equal itself.
    return [repr(float(each.detach().double().sum())) for each in tensors] or len(value)
