"""What a script does behind its fit, with the checkpoint and the metrics that the fit has left.

It fails there when training is over, and a trial ends before it.
"""

import ast
import inspect
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import has_own
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.rules.logged import names_of
from getiaction_launch.checking.rules.resuming import unsafe_classes
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source
from getiaction_launch.errors import nearest_first

_STEPS = {"test": "test_step", "validate": "validation_step"}
_LOADERS = {
    "test": "test_dataloader",
    "predict": "predict_dataloader",
    "validate": "val_dataloader",
}
_OWN = re.compile(r"\b(best|last)_model_path\b")
"""What a script calls the checkpoint that its own fit has saved."""
_OF_LIGHTNING = re.compile(r"(\./)?lightning_logs/version_\d+/")
"""Where Lightning writes if no launcher has chosen the directory of the run."""
_ALLOWS = ("add_safe_globals", "safe_globals", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
_FORCE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def check_afterwards(
    built: Built, logged: Collection[str], content: dict[str, Any]
) -> Iterator[Finding]:
    """Check what a script does with its Trainer and its checkpoints once it has fitted.

    Args:
        built: What the script has given to ``Trainer.fit``.
        logged: The metrics that a trial has logged.
        content: What a checkpoint holds besides weights and optimizers; empty if it is not known.
    """
    if built.source is None:
        return
    behind = _Behind(built, built.source, logged, content)
    for node in _outside_of_classes(built.source.tree):
        if isinstance(node, ast.Call):
            found = [*behind.of_call(node)]
        else:
            found = [*behind.of_metric(node)] if isinstance(node, ast.Subscript) else []
        for finding in found:
            yield built.source.judged(finding, node)


def _outside_of_classes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.ClassDef):
            yield child
            yield from _outside_of_classes(child)


class _Behind:
    """The calls of a script behind its fit."""

    def __init__(
        self, built: Built, source: Source, logged: Collection[str], content: dict[str, Any]
    ) -> None:
        self._built, self._source = built, source
        self._logged, self._content = logged, content
        calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
        methods = [call for call in calls if isinstance(call.func, ast.Attribute)]
        self._fits = [call for call in methods if _method(call) == "fit"]
        owners = [call.func.value for call in self._fits if isinstance(call.func, ast.Attribute)]
        values = [(each, source.constants.expression_of(each)) for each in owners]
        # None that is made anew later, and none of another library.
        self._trainers = {
            ast.unparse(each) for each, made in values if called_name(made).endswith("Trainer")
        }
        # LightningCLI fits what it has built, and hands that out.
        self._clis = {
            ast.unparse(target)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Assign) and called_name(node.value).endswith("CLI")
            for target in node.targets
        }
        self._trainers |= {f"{name}.trainer" for name in self._clis}
        of_trainers = [call for call in methods if _owner(call) in self._trainers]
        self._is_evaluated = any(_method(call) in _LOADERS for call in of_trainers)

    def of_call(self, node: ast.Call) -> Iterator[Finding]:
        """Find what a call needs that the fit does not leave."""
        method, at = _method(node), self._source.at(node)
        if method in _LOADERS and _owner(node) in self._trainers:
            yield from self._of_evaluation(node, method, at)
        is_own = any(_OWN.search(self._text(each)) for each in node.args[:1])
        if method == "load_from_checkpoint" and is_own:
            yield from self._of_model(node, at)
        elif self._source.names.of(node.func) == "torch.load" and is_own:
            yield from self._of_classes(node, f"{at}: torch.load")
        if method in ("load_from_checkpoint", "load") and node.args:
            yield from self._of_place(self._source.constants.value_of(node.args[0]), at)

    def of_metric(self, node: ast.Subscript) -> Iterator[Finding]:
        """Find a metric that is read behind the fit, and that nothing logs."""
        owner = ast.unparse(node.value).rpartition(".")
        is_read = isinstance(node.ctx, ast.Load) and owner[2] == "callback_metrics"
        name = self._source.constants.value_of(node.slice)
        if not is_read or owner[0] not in self._trainers or not isinstance(name, str):
            return
        written = names_of([self._built.model, *self._built.trainer.callbacks])
        plain = name.removesuffix("_step").removesuffix("_epoch")
        if name in self._logged or written is None or plain in written or self._is_evaluated:
            return
        yield refusal(
            "monitors",
            name,
            f"{self._source.at(node)}: callback_metrics[{name!r}]: no metric of this name is "
            "logged, so the script fails when training is over.",
            nearest_first(name, self._logged),
        )

    def _of_evaluation(self, node: ast.Call, method: str, at: str) -> Iterator[Finding]:
        built = self._built
        given = self._source.constants.arguments_of(node)
        path = given.get("ckpt_path")
        if path in ("best", "last") and built.trainer.checkpoint_callback is None:
            yield refusal(
                "checkpoints",
                "ckpt_path",
                f"{at}: {method}(ckpt_path={path!r}): this Trainer saves no checkpoint, as it has "
                "enable_checkpointing=False.",
                "Leave ckpt_path out, for the weights that training has ended with; or have it "
                "save: Trainer(enable_checkpointing=True)",
            )
        elif path in ("best", "last") and _knows_weights_only(built):
            yield from self._of_classes(node, f"{at}: {method}(ckpt_path={path!r})")
        models = [*node.args[:1], *(w.value for w in node.keywords if w.arg == "model")]
        has_model = all(map(self._is_fitted, models))
        if has_model and (step := _STEPS.get(method)) and not has_own(built.model, step):
            kind = type(built.model).__name__
            what = f"{at}: {method} needs {step}, which {kind} does not have."
            yield refusal("training", step, what, f"Define {step} in {kind}")
        loader = _LOADERS[method]
        owners = [each for each in (built.data, built.model) if each is not None]
        is_given = (
            len(node.args) > 1 or "dataloaders" in given or any(not w.arg for w in node.keywords)
        )
        data = next((word.value for word in node.keywords if word.arg == "datamodule"), None)
        is_other = data is not None and not self._is_fitted(data)
        has_loader = any(has_own(owner, loader) for owner in owners)
        if has_model and not (is_given or is_other or has_loader):
            kind = type(built.model if built.has_loaders else owners[0]).__name__
            what = f"{at}: {method} gets no data, and {kind} has no {loader}."
            fix = f"Give it a loader: trainer.{method}(model, loader), or define {loader}"
            yield refusal("data", loader, what, fix)

    def _is_fitted(self, node: ast.expr) -> bool:
        """Whether an expression is what the fit has got, too."""
        given = [
            each for fit in self._fits for each in (*fit.args, *(w.value for w in fit.keywords))
        ]
        text = ast.unparse(node)
        of_clis = {f"{name}.{part}" for name in self._clis for part in ("model", "datamodule")}
        return text in of_clis or (isinstance(node, ast.Name) and text in map(ast.unparse, given))

    def _of_place(self, path: object, at: str) -> Iterator[Finding]:
        """Find a checkpoint that is looked for where Lightning writes without the launcher."""
        if isinstance(path, str) and _OF_LIGHTNING.match(path) and not Path(path).exists():
            yield refusal(
                "checkpoints",
                path,
                f"{at}: {path}: there is no such file, and a run writes its checkpoints to its own "
                "directory.",
                "Use what the Trainer knows: trainer.checkpoint_callback.best_model_path",
            )

    def _of_model(self, node: ast.Call, at: str) -> Iterator[Finding]:
        """Find a model that cannot be made of its own checkpoint."""
        model = type(self._built.model)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if self._is_object(owner, node):
            yield refusal(
                "checkpoints",
                "load_from_checkpoint",
                f"{at}: {ast.unparse(owner)}.load_from_checkpoint is called on an object, and "
                "Lightning takes it of the class alone.",
                f"Write {model.__name__}.load_from_checkpoint(...)",
            )
        if ast.unparse(owner).rpartition(".")[2] != model.__name__ or not self._content:
            return
        yield from self._of_classes(node, f"{at}: load_from_checkpoint")
        words = {word.arg for word in node.keywords}
        parameters = list(inspect.signature(model).parameters.values())
        if words & {None, "hparams_file"} or len(node.args) > 2:  # noqa: PLR2004 - as its signature
            return
        kept = {*(self._content.get(model.CHECKPOINT_HYPER_PARAMS_KEY) or ())}
        kept.add(self._content.get(model.CHECKPOINT_HYPER_PARAMS_NAME))
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        lacking = [
            each.name
            for each in parameters
            if each.kind in named and each.default is each.empty and each.name not in kept | words
        ]
        if lacking:
            first = lacking[0]
            yield refusal(
                "checkpoints",
                first,
                f"{at}: {model.__name__}.load_from_checkpoint needs {', '.join(lacking)}, which "
                "no checkpoint has.",
                f"Call self.save_hyperparameters() in __init__ of {model.__name__}, or give "
                f"load_from_checkpoint(..., {first}=...)",
            )

    def _is_object(self, owner: ast.expr, call: ast.Call) -> bool:
        """Whether a name stands for an object of the model's class wherever a call may be."""
        nodes = list(ast.walk(self._source.tree))
        text = ast.unparse(owner)
        stored = [n for n in nodes if isinstance(n, ast.Name) and n.id == text]
        times = sum(isinstance(name.ctx, ast.Store) for name in stored)
        values = [
            node.value
            for node in nodes
            if isinstance(node, ast.Assign) and text in map(ast.unparse, node.targets)
        ]
        made = [value for value in values if value is not call]
        kind = type(self._built.model).__name__
        is_made = bool(made) and all(called_name(value) == kind for value in made)
        return is_made and times == len(values)

    def _of_classes(self, node: ast.Call, where: str) -> Iterator[Finding]:
        """Find objects in a checkpoint that torch does not load unless it is allowed to."""
        variables = {**os.environ, **self._built.plan.env_vars}
        is_named = any(word in self._source.text for word in _ALLOWS)
        is_allowed = is_named or bool(variables.get(_FORCE))
        if is_allowed or "weights_only" in ast.unparse(node) or not self._content:
            return
        if odd := unsafe_classes(self._content):
            yield refusal(
                "checkpoints",
                "weights_only",
                f"{where} loads weights_only=True by default, and the checkpoints hold "
                f"{', '.join(odd[:3])}.",
                "Give it weights_only=False, or save plain values: "
                "self.save_hyperparameters({...})",
            )

    def _text(self, node: ast.expr) -> str:
        return ast.unparse(self._source.constants.expression_of(node))


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _knows_weights_only(built: Built) -> bool:
    """Whether Lightning leaves to torch how a checkpoint is loaded, as it does since 2.6."""
    return "weights_only" in inspect.signature(built.trainer.test).parameters
