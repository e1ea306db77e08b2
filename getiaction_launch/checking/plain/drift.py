"""What two ranks make of a model in DistributedDataParallel, which keeps it the same on each.

All ranks get the same averaged gradients, so weights that differ behind a step show that it has
used others. What else a program does to weights, such as loading those of its best epoch, does not
count: they are looked at where an optimizer has just made a step.
"""

import ast
import contextlib
import functools
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import is_own
from getiaction_launch.checking.plain.states import DIVIDES_MODEL
from getiaction_launch.checking.replacing import replacing
from getiaction_launch.checking.source.source import Source

_EXCHANGES = re.compile(
    r"averag|local_?sgd|diloco|hook|reduce|gather|scatter|broadcast|send\(|recv\(|P2POp|rpc|gossip",
    re.IGNORECASE,
)
"""How source says that the ranks may average or exchange weights, at times."""
_RESTORES = re.compile(r"load_state_dict|copy_\(|lerp|deepcopy|(?<!utils)\.data\b|functional_call")
"""How source says that what was trained may be put back."""
_OF_NUMBERS = re.compile(
    r"ReduceOp|ReduceLROnPlateau|(all_)?reduce\(\s*\w*"
    r"(loss|metric|total|count|correct|error|seen|stat|norm|score|return|reward|flag|stop|acc)",
    re.IGNORECASE,
)
"""What is only about a number."""
_INTEGERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
"""By how many bytes a weight has, the type of its bits."""


class _Wrapped:
    """A wrapped model, and what has become of it.

    Attributes:
        steps: How many steps optimizers have made on its weights.
        content: A number that changes with these weights, of the newest step.
        way: How this step came by its gradients.
        thawed: A weight that was frozen when the model was wrapped, and is trained.
    """

    def __init__(self, wrapper: Any) -> None:  # noqa: ANN401 - a DistributedDataParallel
        from torch import distributed

        group: Any = getattr(wrapper, "process_group", None)
        self._is_shared = bool(group) and group.size() == distributed.get_world_size()
        self._ignored = set(getattr(wrapper, "parameters_to_ignore", ()))
        # Not the wrapper itself: its gradients would be averaged for longer than it is there.
        self._wrapper: Callable[[], Any] = weakref.ref(wrapper)
        weights = self._weights()
        self._shapes = [list(each.shape) for each in weights.values()]
        self._frozen = {name for name, each in weights.items() if not each.requires_grad}
        self._calls, self._is_synced = 0, True
        self._calls_before: Any = weakref.WeakKeyDictionary()
        self.steps, self.content, self.way, self.thawed = 0, 0, "", ""

    def note_call(self, wrapper: Any) -> None:  # noqa: ANN401 - as above
        """Note a call of the wrapper, if it is this one and the call is to be trained by."""
        import torch

        if self._wrapper() is wrapper and torch.is_grad_enabled():
            self._calls += 1
            self._is_synced = wrapper.require_backward_grad_sync

    def note_step(self, optimizer: Any, stepped: set[int]) -> None:  # noqa: ANN401 - one of torch
        """Note what an optimizer has made of the weights, if it has some of them."""
        weights = {name: each for name, each in self._weights().items() if each.requires_grad}
        if not any(id(each) in stepped for each in weights.values()):
            return
        calls, self._calls_before[optimizer] = self._calls_before.get(optimizer, 0), self._calls
        if self._calls > calls:
            self.way = "called" if self._is_synced else "no_sync"
        else:
            self.way = "elsewhere" if self._calls else "module"
        self.thawed = next((name for name in weights if name in self._frozen), "")
        self.steps += 1
        self.content = _content_of(weights.values())

    def state(self) -> list[Any]:
        """Return what the ranks are compared by; the weights are the last of it."""
        return [self._is_shared, self._has_hook(), self._shapes, self.steps, self.content]

    def _has_hook(self) -> bool:
        """Whether gradients are averaged in a way of the program's own."""
        return bool(getattr(self._wrapper(), "_comm_hooks", ()))

    def _weights(self) -> dict[str, Any]:
        wrapper = self._wrapper()
        named = wrapper.module.named_parameters() if wrapper is not None else ()
        return {name: each for name, each in named if name not in self._ignored}


class Drift:
    """The wrapped models of a program, in the order in which they were wrapped.

    Args:
        source: The program, as it was read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wrapped: list[_Wrapped] = []
        self._imported = set(sys.modules)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch in the context what is wrapped, called and stepped."""
        from torch.nn.parallel import DistributedDataParallel as Wrapper
        from torch.optim.optimizer import register_optimizer_step_post_hook

        wrap: Callable[..., None] = Wrapper.__init__
        call: Callable[..., Any] = Wrapper.forward

        @functools.wraps(wrap)
        def wrapping(wrapper: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as torch has it
            wrap(wrapper, *arguments, **options)
            self._wrapped.append(_Wrapped(wrapper))

        @functools.wraps(call)
        def calling(wrapper: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
            for each in self._wrapped:
                each.note_call(wrapper)
            return call(wrapper, *arguments, **options)

        hook = register_optimizer_step_post_hook(self._note_step)
        try:
            with replacing(Wrapper, __init__=wrapping, forward=calling):
                yield
        finally:
            hook.remove()

    def _note_step(self, optimizer: Any, *_: object) -> None:  # noqa: ANN401 - one of torch
        stepped = {id(each) for group in optimizer.param_groups for each in group["params"]}
        for each in self._wrapped:
            each.note_step(optimizer, stepped)

    def state(self) -> list[list[Any]]:
        """Return what the ranks are compared by."""
        return [each.state() for each in self._wrapped]

    def compare(self, theirs: list[list[Any]], *, is_over: bool) -> Finding | None:
        """Return what is wrong with weights that differ on the other rank.

        Args:
            theirs: What :meth:`state` has returned there.
            is_over: Whether both have come to their end, so that nothing is put back any more.
        """
        if len(theirs) != len(self._wrapped) or DIVIDES_MODEL.search(self._source.text):
            return None
        for each, other in zip(self._wrapped, theirs, strict=True):
            *mine, content = each.state()
            is_shared, has_hook = mine[:2]
            if is_shared and not has_hook and mine == other[:-1] and content != other[-1]:
                return self._judged(each, is_over=is_over)
        return None

    def _judged(self, wrapped: _Wrapped, *, is_over: bool) -> Finding | None:
        if wrapped.way == "elsewhere":  # such as by a rank's own data, once it was trained together
            return None
        text = _OF_NUMBERS.sub("", self._text())
        is_sure = wrapped.way == "called" and bool(wrapped.thawed)
        is_sure |= not _EXCHANGES.search(text) and (is_over or not _RESTORES.search(text))
        judged = refusal if is_sure else doubt
        key, why, fix = self._reason(wrapped)
        return judged(
            "ranks",
            key,
            f"{why}, and two ranks that were tried have other weights after {wrapped.steps} steps: "
            "each trains a model of its own.",
            fix,
        )

    def _text(self) -> str:
        """Return the program without its comments, with the modules of its own that it imports."""
        modules = [sys.modules[name] for name in set(sys.modules) - self._imported]
        files = {getattr(module, "__file__", None) or "" for module in modules}
        texts = [self._source.text]
        for file in files:
            if file.endswith(".py") and is_own(file):
                with contextlib.suppress(OSError):
                    texts.append(Path(file).read_text(encoding="utf-8", errors="replace"))
        return "\n".join(texts)

    def _reason(self, wrapped: _Wrapped) -> tuple[str, str, str]:
        """Return the key, why gradients are not averaged, and the fix."""
        if wrapped.way == "module":
            key, what = self._place(_is_called_inside, ".module")
            why = f"{what}: the model inside of DistributedDataParallel is called, so no gradients "
            fix = "Call the wrapped model itself, model(...), and have its forward compute the loss"
            return key, f"{why}are averaged", fix
        if wrapped.way == "no_sync":
            key, what = self._place(_is_no_sync, "no_sync")
            why = f"{what}: the last backward before a step is within no_sync(), so its gradients "
            fix = "Use no_sync() for all batches but the last one before optimizer.step()"
            return key, f"{why}are not averaged", fix
        if wrapped.thawed:
            key, what = self._place(_is_thawed, "requires_grad")
            why = f"{what}: {wrapped.thawed} was frozen when DistributedDataParallel was made, so "
            fix = "Wrap the model again once it is set: model = DistributedDataParallel(model."
            fix += "module); or freeze it after it was wrapped, with find_unused_parameters=True"
            return key, f"{why}its gradients are not averaged", fix
        key, what = self._place(_is_called_inside, "DistributedDataParallel")
        fix = "Compute each loss by the wrapped model itself, model(...), give each rank the same "
        fix += "learning rate, and change its weights only by the optimizer"
        return key, f"{what}: a step uses more than the averaged gradients", fix

    def _place(self, is_meant: Callable[[ast.AST], bool], name: str) -> tuple[str, str]:
        """Return the key of what the source has, and where; or its name."""
        nodes = (node for node in ast.walk(self._source.tree) if is_meant(node))
        lines = sorted({getattr(node, "lineno", 0) for node in nodes})
        if not lines:
            return name, f"{self._source.name}: {name}"
        place = f"{self._source.name}:{lines[-1]}"
        text = self._source.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return place, f"{place} ({text[lines[-1] - 1].strip()})"


def _is_called_inside(node: ast.AST) -> bool:
    """Whether a node calls the model inside of a wrapper, to train it or not."""
    if not isinstance(node, ast.Call):
        return False
    called = f"{ast.unparse(node.func)}."
    kept = ("state_dict", "parameters", "buffers", "train", "eval", "named_", "modules", "children")
    return ".module." in called and not any(f".module.{word}" in called for word in kept)


def _is_no_sync(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("no_sync")


def _is_thawed(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        value, targets = node.value, [ast.unparse(each) for each in node.targets]
        is_set = any(each.endswith(".requires_grad") for each in targets)
        return is_set and not (isinstance(value, ast.Constant) and not value.value)
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".requires_grad_"):
        return not any(isinstance(each, ast.Constant) and not each.value for each in node.args)
    return False


def _content_of(weights: Iterable[Any]) -> int:
    """Return a number that changes with the bits of any of these tensors."""
    import torch

    total = 0
    for number, each in enumerate(weights, 1):
        with contextlib.suppress(RuntimeError):
            bits = each.detach().contiguous().view(getattr(torch, _INTEGERS[each.element_size()]))
            total += number * int(bits.sum(dtype=torch.int64))
    return total
