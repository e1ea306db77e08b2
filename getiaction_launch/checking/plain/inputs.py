"""What goes into wrapped models, which each rank should have of its own."""

import ast
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.loading.batches import hash_of
from getiaction_launch.checking.plain.loop import STEPS
from getiaction_launch.checking.plain.states import DIVIDES_MODEL
from getiaction_launch.checking.replacing import replacing
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source

_SEEDS = ("seed", "manual_seed", "seed_everything", "default_rng", "RandomState", "Random")
"""What draws alike on ranks that give it the same number."""


class Inputs:
    """The first inputs of the wrapped models of a program, and its first losses."""

    def __init__(self) -> None:
        self._inputs: dict[int, list[str | None]] = {}
        self._losses: list[str] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch in the context what wrapped models are called with, and what is learned from."""
        from torch import Tensor
        from torch.nn.parallel import DistributedDataParallel as Wrapper

        call: Callable[..., Any] = Wrapper.forward
        learn: Callable[..., Any] = Tensor.backward

        @functools.wraps(call)
        def calling(wrapper: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as torch has it
            self._note_call(wrapper, [arguments, options])
            return call(wrapper, *arguments, **options)

        @functools.wraps(learn)
        def learning(loss: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
            if len(self._losses) < STEPS:
                is_number = loss.numel() == 1 and loss.is_floating_point()
                self._losses.append(repr(float(loss.detach())) if is_number else "")
            return learn(loss, *arguments, **options)

        with replacing(Wrapper, forward=calling), replacing(Tensor, backward=learning):
            yield

    def _note_call(self, wrapper: Any, given: object) -> None:  # noqa: ANN401 - as above
        import torch

        seen = self._inputs.setdefault(id(wrapper), [])
        if torch.is_grad_enabled() and len(seen) < STEPS:
            seen.append(hash_of(_copied(given)))

    def state(self) -> dict[str, Any]:
        """Return what the ranks are compared by."""
        return {"inputs": list(self._inputs.values()), "losses": self._losses}

    def compare(self, theirs: dict[str, Any], source: Source) -> Finding | None:
        """Return a doubt if the ranks train on the same, and it is not always the same.

        Args:
            theirs: What :meth:`state` has returned on the other rank.
            source: The program, as it was read.
        """
        mine = self.state()
        seen = [len({*each}) for each in mine["inputs"] if len(each) == STEPS and None not in each]
        is_drawn = max(seen, default=0) == STEPS and len({*self._losses} - {""}) == STEPS
        if DIVIDES_MODEL.search(source.text) or mine != theirs or not is_drawn:
            return None
        calls = [each for each in ast.walk(source.tree) if isinstance(each, ast.Call)]
        seeds = [each for each in calls if called_name(each) in _SEEDS and each.args]
        place = f"{source.at(seeds[0])} ({ast.unparse(seeds[0])})" if seeds else source.name
        return doubt(
            "ranks",
            "seed",
            f"{place}: two ranks that were tried have given their models the same inputs, and have "
            f"computed the same losses in {STEPS} steps: what one of them draws or collects, the "
            "other one does, too.",
            "Seed with the rank what collects and draws the data: numpy.random.default_rng(seed + "
            "rank), env.reset(seed=seed + rank); DistributedDataParallel gives each rank the same "
            "first weights",
        )


def _copied(value: Any) -> Any:  # noqa: ANN401 - any argument of a model
    """Return a value with tensors that hold no more than they show."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, (list, tuple)) else value
