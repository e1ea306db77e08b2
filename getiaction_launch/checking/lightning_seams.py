"""Every place where a check relies on internals of Lightning, torch or jsonargparse.

Each is a small function that says why no public interface does the same, and
tests/check/test_seams.py has a test for each.
"""

import contextlib
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from getiaction_launch.checking.replacing import replacing
from getiaction_launch.plan.plan import Topology

_HALVES = ("16", "16-mixed", "16-true")
_READS_CHECKPOINT = "_parse_ckpt_path"


def is_of_checkpoint(error: BaseException) -> bool:
    """Return whether an error was raised while LightningCLI read the checkpoint of ``ckpt_path``.

    It merges the checkpoint's hyperparameters into the spec, and its errors name neither.

    Args:
        error: The exception that has ended the interface.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == _READS_CHECKPOINT for frame, _ in frames)


def content_of(trainer: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's Trainer
    """Return what a checkpoint would hold.

    ``Trainer.save_checkpoint`` writes a file at once.

    Args:
        trainer: The Trainer, which has trained.
    """
    content: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint()  # noqa: SLF001 - see above
    return content


def restore(trainer: Any, content: dict[str, Any]) -> None:  # noqa: ANN401 - as above
    """Have Lightning restore data, model, callbacks and schedules, as a fit that resumes does.

    A fit does it only as it begins, and from a file.

    Args:
        trainer: The Trainer, which is fitting.
        content: What :func:`content_of` has returned.

    Raises:
        Exception: Whatever the user's hooks raise.
    """
    connector = trainer._checkpoint_connector  # noqa: SLF001 - see above
    connector._loaded_checkpoint = content  # noqa: SLF001
    try:
        connector.restore_datamodule()
        connector.restore_model()
        connector.restore_callbacks()
        connector.restore_lr_schedulers()
    finally:
        connector._loaded_checkpoint = {}  # noqa: SLF001


def pretend_worker(dataset: Any) -> None:  # noqa: ANN401 - of any kind
    """Have ``torch.utils.data.get_worker_info()`` say that this process is the only worker.

    A dataset asks it which of its samples to read. Torch sets it only in processes that a
    DataLoader has started, and a trial may start none.

    Args:
        dataset: The dataset that the worker would hold.
    """
    from torch.utils.data._utils import worker

    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=0, dataset=dataset)  # noqa: SLF001 - see above


@contextlib.contextmanager
def watching_trainers(note: Callable[[Any, dict[str, Any]], None]) -> Iterator[None]:
    """Call a function with each Trainer that is built, and with all of its arguments by name.

    A Trainer keeps few of them. Its ``__init__`` cannot be replaced: LightningCLI reads its
    signature and its source.

    Args:
        note: Function to call, before the Trainer is complete.
    """
    module: Any = importlib.import_module("lightning.pytorch.trainer.trainer")
    names = set(inspect.signature(module.Trainer.__init__).parameters) - {"self"}
    connector = module._AcceleratorConnector  # noqa: SLF001 - see above

    def connect(*args: Any, **arguments: Any) -> Any:  # noqa: ANN401 - as the class
        given = sys._getframe(1).f_locals  # noqa: SLF001 - of Trainer.__init__
        note(given["self"], {name: given[name] for name in names if name in given})
        return connector(*args, **arguments)

    with replacing(module, _AcceleratorConnector=connect):
        yield


@contextlib.contextmanager
def watching_entries(take: Callable[[str, Any, tuple[Any, ...]], None]) -> Iterator[None]:
    """Call a function in place of what ``Trainer.fit``, ``validate``, ``test`` or ``predict`` does.

    They have looked at their arguments by then. They cannot be replaced themselves, as LightningCLI
    reads their signatures.

    Args:
        take: Function to call with ``fit`` or another name, the Trainer, and the arguments.
    """
    call: Any = importlib.import_module("lightning.pytorch.trainer.call")

    def entered(trainer: Any, function: Callable[..., Any], *args: Any, **_: object) -> None:  # noqa: ANN401
        take(function.__name__.strip("_").partition("_")[0], trainer, args)

    with replacing(call, _call_and_handle_interrupt=entered):
        yield


@contextlib.contextmanager
def watching_losses(note: Callable[[str], None]) -> Iterator[None]:
    """Call a function with each warning of torch's losses, while the loss is calculated.

    What warnings record has no line but that of torch's own module for a loss that is one.

    Args:
        note: Function to call with the text of the warning.
    """
    losses: Any = importlib.import_module("torch.nn.functional")
    before = losses.warnings

    def warn(message: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as warnings.warn
        note(str(message))
        level = options.pop("stacklevel", 1) + 1
        before.warn(message, *args, stacklevel=level, **options)

    with replacing(losses, warnings=types.SimpleNamespace(**{**vars(before), "warn": warn})):
        yield


def ddp_options(strategy: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's DDPStrategy
    """Return what a strategy gives to DistributedDataParallel; it has it under no public name."""
    return dict(strategy._ddp_kwargs)  # noqa: SLF001 - see above


@contextlib.contextmanager
def fabric_on_cpu(
    whole: Topology, tried: Topology, refrain: Callable[[str], NoReturn]
) -> Iterator[None]:
    """Have each Fabric use the CPU, and as many ranks as are tried in place of those of the run.

    It takes all of that only where it is made.

    Args:
        whole: The nodes and workers of the run.
        tried: Those of the trial.
        refrain: Function to call with the reason if a Fabric cannot be tried so.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    before: Any = Fabric.__init__
    signature = inspect.signature(before)

    def initialize(*args: Any, **options: Any) -> None:  # noqa: ANN401 - as Fabric
        given = signature.bind(*args, **options)
        given.apply_defaults()
        arguments = given.arguments
        strategy, precision = arguments["strategy"], str(arguments["precision"])
        is_ddp = isinstance(strategy, DDPStrategy) or str(strategy).startswith(("auto", "ddp"))
        if not is_ddp or precision.startswith("transformer-engine"):
            refrain(f"Fabric(strategy={strategy!r}, precision={precision}) is not tried on a CPU")
        on_cpu = str(arguments["accelerator"]) == "cpu" or not whole.gpus_per_node
        number = arguments["devices"]
        if number in ("auto", -1, "-1"):
            number = 1 if on_cpu else whole.workers_per_node
        if isinstance(number, int) and number * arguments["num_nodes"] == whole.world_size:
            arguments |= {"devices": tried.workers_per_node, "num_nodes": tried.num_nodes}
        arguments |= {"accelerator": "cpu"}
        if precision in _HALVES:
            arguments["precision"] = precision.replace("16", "bf16", 1)
        before(*given.args, **given.kwargs)

    with replacing(Fabric, __init__=initialize):
        yield


def give_rank_its_share(trainer: Any, loader: Any) -> None:  # noqa: ANN401 - as Lightning's
    """Have Lightning replace the sampler of a loader, as it does where a fit begins.

    Args:
        trainer: The Trainer, which knows all ranks.
        loader: What ``train_dataloader`` has returned.

    Raises:
        Exception: If the loader's sampler cannot be replaced.
    """
    from lightning.pytorch.trainer.states import RunningStage

    connector = trainer._data_connector  # noqa: SLF001 - a fit does it after it has set up strategies
    connector._prepare_dataloader(loader, shuffle=True, mode=RunningStage.TRAINING)  # noqa: SLF001


def epochs_done(content: Mapping[str, Any]) -> int:
    """Return how many epochs a checkpoint counts as done, by which a fit that resumes goes.

    Args:
        content: The content of a checkpoint of Lightning.
    """
    loops: Any = content.get("loops") or {}
    with contextlib.suppress(KeyError, TypeError):
        return int(loops["fit_loop"]["epoch_progress"]["current"]["processed"])
    return int(content.get("epoch") or 0)


def prepare_parsing() -> None:
    """Have jsonargparse find its stubs, for which it starts a program, and keeps what that says.

    A script that parses by it, as LightningCLI does, would otherwise be parsed without them.
    """
    with contextlib.suppress(Exception):  # an optional part of jsonargparse
        stubs: Any = importlib.import_module("jsonargparse._stubs_resolver")
        stubs.get_stubs_resolver()


def fit_parser(cli: Any) -> Any:  # noqa: ANN401 - a LightningCLI and its parser
    """Return the parser of a spec; LightningCLI hands out only that of all subcommands.

    Args:
        cli: The interface, before it has parsed anything.
    """
    return getattr(cli, "_subcommand_parsers", {}).get("fit")


def types_of_keys(parser: Any) -> dict[str, object]:  # noqa: ANN401 - a parser of jsonargparse
    """Return the type of each key of a parser, as it was declared; jsonargparse does not list them.

    Args:
        parser: The parser; None has no keys.
    """
    actions = getattr(parser, "_actions", ())
    return {each.dest: each._typehint for each in actions if hasattr(each, "_typehint")}  # noqa: SLF001 - see above
