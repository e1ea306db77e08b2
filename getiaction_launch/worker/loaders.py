"""The user's data loaders: made fit for an interruption, and asked whether they go on exactly."""

import functools
import multiprocessing
import os

from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from getiaction_launch.worker.shield import LoaderShield, shielded_context


def prepare_loader(loader: object, trainer: Trainer) -> None:
    """Shield the loader's processes from SIGTERM, and set its epoch before it is read."""
    if not isinstance(loader, DataLoader):
        return
    init = loader.worker_init_fn
    if loader.num_workers and not isinstance(init, LoaderShield):
        if init is None and int(os.environ.get("PL_SEED_WORKERS", "0")):
            # Lightning adds it after this, and only where there is none.
            init = functools.partial(pl_worker_init_function, rank=trainer.global_rank)
        loader.worker_init_fn = LoaderShield(init)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        loader.multiprocessing_context = shielded_context(context)
    # Lightning does it after the first iterator is made, whose workers may read ahead by then.
    if set_epoch := getattr(loader.sampler, "set_epoch", None):
        set_epoch(trainer.current_epoch)


def are_loaders_exact(trainer: Trainer) -> bool:
    """Whether the loaders go on where they were; one without a length is read a batch ahead."""
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    has_length = trainer.num_training_batches != float("inf")
    return has_length and all(hasattr(loader, "load_state_dict") for loader in loaders)
