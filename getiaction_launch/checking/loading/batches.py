"""Batches: how many each rank gets of a loader, how many samples the last one has, and which."""

import hashlib
import io
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, ok, refusal
from getiaction_launch.checking.lightning_seams import give_rank_its_share
from getiaction_launch.checking.loading.processes import check_loader_processes
from getiaction_launch.checking.pickling import why_unpicklable
from getiaction_launch.checking.rules.epochs import check_validation

_LONGEST = 300


TRAINING = "limit_train_batches"
"""The argument that limits the batches of training."""


def count_batches(loader: Any, world_size: int) -> int | None:  # noqa: ANN401 - a loader of any kind
    """Return how many batches an epoch has on each rank; None if it is not known.

    Args:
        loader: What ``train_dataloader`` has returned.
        world_size: Number of ranks, among which Lightning divides the samples.
    """
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    if not isinstance(loader, DataLoader):
        return len(loader) if hasattr(loader, "__len__") and not _is_group(loader) else None
    if (whole := length_of(loader)) is None:
        return None
    is_divided = isinstance(loader.sampler, (RandomSampler, SequentialSampler))
    if world_size == 1 or not is_divided or not loader.batch_size:
        return whole
    share = -(-len(loader.dataset) // world_size)  # type: ignore[arg-type] # it has a length
    full, rest = divmod(share, loader.batch_size)
    return full if loader.drop_last or not rest else full + 1


def trained_batches(built: Built, loader: Any) -> int | None:  # noqa: ANN401 - a loader of any kind
    """Return how many batches of an epoch each rank trains; None if it is not known.

    Args:
        built: What the spec names, with the limits of its Trainer.
        loader: What ``train_dataloader`` has returned.
    """
    batches = count_batches(loader, sharing(built))
    limit = built.arguments.get(_limit_key(built))
    if batches is None or limit is None or isinstance(limit, bool):
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def epoch_end(built: Built, loader: Any, limit: str) -> tuple[int, int] | None:  # noqa: ANN401
    """Return where each rank ends an epoch; None if it does not come there, or it is not known.

    Args:
        built: What the spec names, with the limits of its Trainer.
        loader: A loader of any kind.
        limit: The argument that limits its batches, such as ``limit_val_batches``.

    Returns:
        How many samples of the dataset an epoch has, of all ranks, and how many of them are in the
        last batch of a rank.
    """
    arguments = built.arguments
    share = arguments.get(limit)
    is_limited = share is not None and (share != 1.0 or isinstance(share, int))
    if is_limited or arguments.get("overfit_batches") or arguments.get("fast_dev_run"):
        return None
    if not _takes_all(loader):
        return None
    samples, size, world = len(loader.dataset), loader.batch_size, sharing(built)
    full, rest = divmod(-(-samples // world), size)
    steps = int(arguments.get("max_steps") or -1)
    trained = steps * int(arguments.get("accumulate_grad_batches") or 1)
    if limit == TRAINING and 0 < trained < full + bool(rest):
        return None
    if loader.drop_last:
        return min(samples, full * size * world), size
    return samples, rest or size


def _takes_all(loader: Any) -> bool:  # noqa: ANN401 - a loader of any kind
    """Whether an epoch of a loader has each sample of its dataset once."""
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    if not isinstance(loader, DataLoader) or not loader.batch_size:
        return False
    sampler = loader.sampler
    if not isinstance(sampler, (RandomSampler, SequentialSampler)):
        return False
    return not getattr(sampler, "replacement", False) and len(sampler) == len(loader.dataset)  # type: ignore[arg-type] # it has a length


def epochs_begun(built: Built, batches: int | None) -> int | None:
    """Return how many epochs a run begins; None if it is not known.

    Args:
        built: What the spec names, with the limits of its Trainer.
        batches: Number of training batches of an epoch on each rank; None if it is not known.
    """
    arguments = built.arguments
    if arguments.get("fast_dev_run") or not batches:
        return None
    epochs, steps = built.trainer.max_epochs, int(arguments.get("max_steps") or -1)
    every = int(arguments.get("accumulate_grad_batches") or 1)
    by_steps = -(-steps // -(-batches // every)) if steps > 0 else None
    found = [number for number in (epochs, by_steps) if number is not None and number > 0]
    return min(found, default=None)


def sharing(built: Built) -> int:
    """Return among how many ranks Lightning divides the samples.

    Args:
        built: What the spec names, with the arguments of its Trainer.
    """
    is_divided = built.arguments.get("use_distributed_sampler", True)
    return built.plan.topology.world_size if is_divided else 1


def _of_sampler(built: Built, loader: Any) -> Iterator[Finding]:  # noqa: ANN401 - of any kind
    """Look for samples that are not there, and have Lightning give this rank its share."""
    weights = getattr(getattr(loader, "sampler", None), "weights", None)
    if weights is not None and hasattr(loader.dataset, "__len__"):
        number, samples = len(weights), len(loader.dataset)
        if number > samples:
            what = f"the sampler has {number} weights, and the dataset {samples} samples."
            fix = "Give it one weight for each sample, or it draws an index that is not there"
            yield refusal("data", "sampler", what, fix)
            return
    if built.plan.topology.world_size == 1:
        return
    try:
        give_rank_its_share(built.trainer, loader)
    except Exception as error:  # noqa: BLE001 - Lightning's or the sampler's own
        said = str(error).strip().partition("\n")[0]
        yield refusal(
            "data",
            _batch_key(built),
            f"train_dataloader: Lightning cannot give each rank its share: {said[:_LONGEST]}",
            "Derive the batch sampler from torch.utils.data.BatchSampler and take its arguments, "
            "or divide the samples yourself: --trainer.use_distributed_sampler=false",
        )


def _limit_key(built: Built) -> str:
    """Return the argument that limits the batches: overfit_batches replaces the other."""
    return "overfit_batches" if built.arguments.get("overfit_batches") else "limit_train_batches"


def check_batches(built: Built, train: Any, validation: Any) -> Iterator[Finding]:  # noqa: ANN401
    """Check that every rank gets batches, and that validation data is used.

    Args:
        built: What the spec names.
        train: What ``train_dataloader`` has returned.
        validation: What ``val_dataloader`` has returned; None if there is none.
    """
    world = built.plan.topology.world_size
    batches = trained_batches(built, train)
    count = count_validation(validation)
    found = [*check_loader_processes(built, train, validation)]
    found += _of_training(built, train, count_batches(train, sharing(built)))
    found += check_validation(built.arguments, validation=count, batches=batches)
    yield from found
    if not found:
        shown = "an unknown number of" if batches is None else str(batches)
        held = "no validation data" if count == 0 else "with validation data"
        yield ok("data", f"{shown} training batches per epoch on each of {world} ranks, {held}")


def _of_training(built: Built, loader: Any, batches: int | None) -> Iterator[Finding]:  # noqa: ANN401
    world, arguments = built.plan.topology.world_size, built.arguments
    size = getattr(loader, "batch_size", None)
    key = _batch_key(built)
    if batches == 0:
        samples = len(loader.dataset) if hasattr(loader, "dataset") else 0
        rest = f" of {samples} samples with drop_last" if samples else ""
        yield refusal(
            "data",
            key,
            f"{key}={size}: no batch is left{rest} on each of {world} ranks, so nothing is "
            "trained.",
            f"--{key}={max(1, samples // world)} or less, or fewer ranks, or more samples",
        )
    yield from _of_shares(built, loader)
    yield from _of_sampler(built, loader)
    yield from _of_processes(loader)
    name = _limit_key(built)
    limit = arguments.get(name)
    if batches and isinstance(limit, float) and 0 < limit < 1 and int(batches * limit) < 1:
        yield refusal(
            "data",
            f"trainer.{name}",
            f"trainer.{name}={limit} of {batches} batches is less than one.",
            f"--trainer.{name}=1 for one batch, or a larger share",
        )


def _of_shares(built: Built, loader: Any) -> Iterator[Finding]:  # noqa: ANN401 - as above
    """Find intervals that are a share of an epoch, where nobody knows how long that is."""
    if _is_group(loader) or length_of(loader) is not None:
        return
    for name in ("val_check_interval", "limit_train_batches"):
        share = built.arguments.get(name)
        if isinstance(share, float) and 0 < share < 1:
            yield refusal(
                "data",
                f"trainer.{name}",
                f"trainer.{name}={share} is a share of an epoch, but the training data is a stream "
                "without a length.",
                f"Give a number of batches: --trainer.{name}=100",
            )


def _of_processes(loader: Any) -> Iterator[Finding]:  # noqa: ANN401 - a loader of any kind
    """Find functions that a loader cannot hand to processes that it does not fork."""
    context = getattr(loader, "multiprocessing_context", None)
    if not getattr(loader, "num_workers", 0) or context is None:
        return
    if context.get_start_method() == "fork":
        return
    functions = {name: getattr(loader, name, None) for name in ("collate_fn", "worker_init_fn")}
    functions |= dict(_functions_of(getattr(loader, "dataset", None)))
    for name, function in functions.items():
        if why := why_unpicklable(function):
            yield refusal(
                "data",
                name,
                f"data: {name} cannot be given to loader processes that are not forked "
                f"(multiprocessing_context={context.get_start_method()!r}): {why}.",
                f"Define {name} as a function of a module, not as a lambda",
            )


def _functions_of(dataset: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a dataset of any kind
    """Yield the functions that a dataset keeps, and those of the datasets that it is a part of."""
    while dataset is not None:
        for name, value in getattr(dataset, "__dict__", {}).items():
            if isinstance(value, FunctionType):
                yield f"{type(dataset).__name__}.{name}", value
        dataset = getattr(dataset, "dataset", None)


def _batch_key(built: Built) -> str:
    """Return the key by which the spec sets the size of a training batch."""
    section = built.spec.get("data") or built.spec.get("model") or {}
    arguments = section.get("init_args") or section
    names = ("train_batch_size", "batch_size", "batch")
    name = next((name for name in names if name in arguments), None)
    return f"{'data' if built.spec.get('data') else 'model'}.{name}" if name else "data"


def count_validation(loader: Any) -> int | None:  # noqa: ANN401 - a loader of any kind
    """Return how many batches of validation there are; None if it is not known.

    Args:
        loader: What ``val_dataloader`` has returned; None if there is none.
    """
    if loader is None or (_is_group(loader) and len(loader) == 0):
        return 0
    return None if _is_group(loader) else length_of(loader)


def _is_group(loader: object) -> bool:
    return isinstance(loader, (list, tuple, dict))


def hash_of(content: object) -> str | None:
    """Return a hash of tensors, or of what holds some; None if it cannot be written."""
    import torch

    file = io.BytesIO()
    try:
        torch.save(content, file)
    except Exception:  # noqa: BLE001 - whatever the user's classes raise
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()


def length_of(loader: Any) -> int | None:  # noqa: ANN401 - a loader of any kind
    """Return how many batches a loader has; None for a dataset without a length."""
    try:
        return len(loader)
    except TypeError:
        return None
