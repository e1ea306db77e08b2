"""Optimizers, and the loss and the gradients of the first batch."""

import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_classes, tree_of
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.weights.nan import of_loss

_IGNORED = re.compile(
    r"Found unsupported keys in the (?:optimizer configuration|lr scheduler dict): (\{[^}]*\})"
)
_LOST = ("lr_scheduler", "scheduler")
_LIKE = 0.7
"""Likeness of two keys from which one is taken for a slip of the other."""
_KEYS_OF_OPTIMIZER = ("optimizer", "lr_scheduler", "monitor")
_KEYS_OF_SCHEDULER = ("scheduler", "interval", "frequency", "monitor", "strict", "name")


def check_optimizers(built: Built, trial: Any) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's Trainer
    """Check the learning rates, and that something steps the optimizers.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained two batches.
    """
    rates = [group["lr"] for each in trial.optimizers for group in each.param_groups]
    if not rates:
        judged = refusal if _forgets_optimizer(built) else doubt
        yield judged(
            "step",
            "model.configure_optimizers",
            f"{type(built.model).__name__}.configure_optimizers returns no optimizer, so Lightning "
            "changes no weight.",
            "return torch.optim.AdamW(self.parameters(), lr=1e-4)",
        )
        return
    key = _rate_key(built.spec)
    if min(map(float, rates)) < 0:
        yield refusal("step", key, f"{key}: the learning rate is negative.", f"--{key}=1e-4")
    if not trial.lr_scheduler_configs and not any(map(float, rates)):
        yield doubt(
            "step",
            key,
            f"{key}: the learning rate is 0, so nothing is trained until something raises it.",
            f"--{key}=1e-4",
        )
    if not built.model.automatic_optimization and not trial.global_step:
        yield doubt(
            "step",
            "model.training_step",
            f"{type(built.model).__name__} sets automatic_optimization=False, and no "
            "optimizer has stepped in the first batches.",
            "Call self.optimizers().step() in training_step",
        )
    yield from _of_averaging(built, trial)


def check_ignored(warned: Iterable[object], *, has_schedule: bool) -> Iterator[Finding]:
    """Find keys in what ``configure_optimizers`` returns that Lightning ignores.

    A schedule that is lost is refused. A key that changes nothing is a doubt only.

    Args:
        warned: What Lightning has warned of while it trained.
        has_schedule: Whether Lightning steps any schedule.
    """
    for text in dict.fromkeys(map(str, warned)):
        if found := _IGNORED.search(text):
            keys = sorted(ast.literal_eval(found[1]))
            of_scheduler = "scheduler dict" in text
            known = _KEYS_OF_SCHEDULER if of_scheduler else _KEYS_OF_OPTIMIZER
            slips = _KEYS_OF_SCHEDULER if of_scheduler else _LOST
            is_lost = any(difflib.get_close_matches(key, slips, 1, _LIKE) for key in keys)
            is_lost |= "interval" in keys and not has_schedule
            judged = refusal if is_lost else doubt
            yield judged(
                "step",
                "model.configure_optimizers",
                f"configure_optimizers returns {', '.join(keys)}, which Lightning ignores: nothing "
                "is done with it.",
                f"The keys that it knows here: {', '.join(known)}",
            )


def _of_averaging(built: Built, trial: Any) -> Iterator[Finding]:  # noqa: ANN401 - as above
    """Find learning rates of an averaging that are not as many as its optimizer has groups."""
    for callback in built.trainer.callbacks:
        rates = getattr(callback, "_swa_lrs", None)
        if not isinstance(rates, list) or not trial.optimizers:
            continue
        groups = len(trial.optimizers[0].param_groups)
        if len(rates) != groups:
            key = built.key_of(type(callback).__name__, "trainer.callbacks")
            yield refusal(
                "step",
                f"{key}.swa_lrs",
                f"{key}.swa_lrs={rates} has {len(rates)} learning rates, and the optimizer "
                f"{groups} groups: it would fail where averaging starts.",
                f"Give one learning rate for all groups, or {groups}: swa_lrs: {rates[0]:g}",
            )


def _rate_key(spec: Mapping[str, Any]) -> str:
    for section in ("model", "optimizer"):
        content = spec.get(section) or {}
        for name in content.get("init_args") or content:
            if name in ("lr", "learning_rate", "optimizer_lr"):
                return f"{section}.{name}"
    return "model.configure_optimizers"


def check_gradients(
    built: Built,
    loss: float | None,
    unused: Sequence[str],
    lost: str = "",
) -> Iterator[Finding]:
    """Check what the first batch has given.

    Args:
        built: What the spec names.
        loss: The loss of the last batch that has one; None if there is none that is a number.
        unused: Names of the parameters to which it has given no gradient.
        lost: What was NaN where the run's own batches have made weights NaN; empty otherwise.
    """
    if loss is not None and loss != loss:  # noqa: PLR0124 - only NaN is unequal to itself
        yield of_loss(built.model, lost)
    if loss is None and built.model.automatic_optimization:
        judged = refusal if _returns_nothing(_tree_of_method(built, "training_step")) else doubt
        yield judged(
            "step",
            "model.training_step",
            f"{type(built.model).__name__}.training_step has returned no loss for the first "
            "batches, of which nothing is learned.",
            "return loss",
        )
    if unused and built.model.automatic_optimization and _is_strict_ddp(built.trainer):
        yield refusal(
            "step",
            "trainer.strategy",
            f"{len(unused)} parameters get no gradient ({', '.join(unused[:3])}), for which "
            "trainer.strategy=ddp ends training at the second step.",
            "--trainer.strategy=ddp_find_unused_parameters_true",
        )


def _forgets_optimizer(built: Built) -> bool:
    """Whether ``configure_optimizers`` makes an optimizer that nobody gets, and nobody steps."""
    tree = _tree_of_method(built, "configure_optimizers")
    if not _returns_nothing(tree) or not built.model.automatic_optimization:
        return False
    makes = any(isinstance(node, ast.Call) and _is_optimizer(node.func) for node in ast.walk(tree))
    return makes and not any(".step(" in source for _, _, source in own_classes(built))


def _is_optimizer(called: ast.expr) -> bool:
    """Whether what is called has the name of one of torch's optimizers."""
    from torch import optim

    kind = getattr(optim, ast.unparse(called).rpartition(".")[2], None)
    return isinstance(kind, type) and issubclass(kind, optim.Optimizer)


def _tree_of_method(built: Built, name: str) -> ast.Module:
    """Return the syntax tree of a method of the model; an empty one if it is not known."""
    try:
        tree = tree_of(inspect.getsource(getattr(type(built.model), name)))
    except (OSError, TypeError):
        tree = None
    return tree or ast.Module([], [])


def _returns_nothing(tree: ast.Module) -> bool:
    """Whether no line of a method returns anything."""
    returned = (node.value for node in ast.walk(tree) if isinstance(node, ast.Return))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return len(functions) == 1 and not any(returned)


def _is_strict_ddp(trainer: Any) -> bool:  # noqa: ANN401 - Lightning's Trainer
    from lightning.pytorch.strategies import DDPStrategy

    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or trainer.world_size == 1:
        return False
    options = getattr(strategy, "_ddp_kwargs", {})
    return not any(options.get(name) for name in ("find_unused_parameters", "static_graph"))
