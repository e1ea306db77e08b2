"""Classes of a user's own that look odd to a check, and that Lightning trains."""

from pathlib import Path

import torch
from lab import SAMPLES, Data, Net
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    get_worker_info,
)


class _Loads(LightningDataModule):
    """Trains with one loader."""

    def train_dataloader(self):
        """Return it."""
        return self.loader()


class _Rows(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {"x": torch.ones(4) * index}


class Named(Net):
    """Takes dicts of whole batches."""

    def training_step(self, batch, batch_idx):
        """Insist on a batch."""
        assert batch["x"].ndim == 2
        return super().training_step([batch["x"]], batch_idx)


class ByBatchSampler(_Loads):
    """Has a sampler of batches of its own."""

    def loader(self):
        """Return dicts."""
        batches = BatchSampler(SequentialSampler(range(SAMPLES)), 4, drop_last=False)
        return DataLoader(_Rows(), batch_sampler=batches)


class _Table(_Rows):
    """Can be iterated, and takes a list of rows, as the datasets of Hugging Face."""

    def __iter__(self):
        return (self[index] for index in range(SAMPLES))

    def __getitem__(self, index):
        return {"x": torch.ones(len(index), 4) if isinstance(index, list) else torch.ones(4)}


class ByTable(_Loads):
    """Has a table give whole batches."""

    def loader(self):
        """Return a loader that makes no batches itself."""
        sampler = BatchSampler(SequentialSampler(range(SAMPLES)), 4, drop_last=False)
        return DataLoader(_Table(), sampler=sampler, batch_size=None)


class _Renaming(DataLoader):
    def __iter__(self):
        return ({"x": x} for (x,) in super().__iter__())


class ByOwnLoader(_Loads):
    """Has a loader that changes its batches."""

    def loader(self):
        """Return it."""
        return _Renaming(TensorDataset(torch.ones(SAMPLES, 4)), batch_size=4)


class _File(Dataset):
    lines = None

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return (torch.ones(4) * len(self.lines),)


def _open(worker):
    del worker
    get_worker_info().dataset.lines = Path(__file__).read_text().splitlines()


class ByWorkers(_Loads):
    """Opens its file in each process."""

    def loader(self):
        """Return a loader that has processes."""
        return DataLoader(_File(), batch_size=4, num_workers=1, worker_init_fn=_open)


class _Shards(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        return iter([(torch.ones(4),)] * (SAMPLES // worker.num_workers))


class ByShards(_Loads):
    """Divides a stream among its processes."""

    def loader(self):
        """Return a loader that has processes."""
        return DataLoader(_Shards(), batch_size=4, num_workers=2)


class Rarely(Net):
    """Logs one metric in some epochs only, and one after some steps."""

    def training_step(self, batch, batch_idx):
        """Log late."""
        if self.global_step > 5:
            self.log("train_los", 1.0)
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_end(self):
        """Log at times."""
        if self.current_epoch % 5 == 4:
            self.log("success_rate", 1.0)


class Valued(Net):
    """Logs the loss of a value function while it trains."""

    def training_step(self, batch, batch_idx):
        """Log it."""
        self.log("value_loss", 1.0)
        return super().training_step(batch, batch_idx)


class Vector(Net):
    """Returns a loss for each sample, and steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """Train nothing."""
        super().training_step(batch, batch_idx)
        return {"loss": batch[0].sum(dim=1)}


class Seldom(Net):
    """Has a scheduler that steps every second step only."""

    def configure_optimizers(self):
        """Return it."""
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 2}]


class Extra(Net):
    """Saves more than tensors."""

    def __init__(self) -> None:
        super().__init__()

    def get_extra_state(self):
        """Return a number."""
        return {"calls": 1}

    def set_extra_state(self, state):
        """Take it."""


class Renamed(Net):
    """Loads weights by their former names."""

    def on_load_checkpoint(self, checkpoint):
        """Rename them."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name.removeprefix("net."): value for name, value in weights.items()
        }


class Whole(Data):
    """Has all samples in the batches of each rank."""

    def __init__(self) -> None:
        super().__init__(batch_size=40, drop_last=True)


class Comparing(Net):
    """Keeps its logger in a checkpoint, and insists on the same run when it resumes."""

    def on_save_checkpoint(self, checkpoint):
        """Keep both."""
        checkpoint["logger"] = self.logger
        checkpoint["run_id"] = getattr(self.logger.experiment, "id", "")

    def on_load_checkpoint(self, checkpoint):
        """Compare."""
        if checkpoint["run_id"] != getattr(self.logger.experiment, "id", ""):
            raise ValueError("this checkpoint is of another run")


class Compared(Callback):
    """Calculates with what its tracker says."""

    def on_train_start(self, trainer, pl_module):
        """Count the steps of former runs."""
        del pl_module
        self.done = getattr(trainer.logger.experiment, "step", 0) + 1


class Reloading(Net):
    """Ends with its best weights."""

    def on_train_end(self):
        """Load them."""
        path = self.trainer.checkpoint_callback.best_model_path
        self.load_state_dict(torch.load(path, weights_only=True)["state_dict"])


class Announcing(Callback):
    """Says how good the best checkpoint is."""

    def on_fit_end(self, trainer, pl_module):
        """Keep its score."""
        del pl_module
        score = trainer.checkpoint_callback.best_model_score
        self.score = score.item()


class Stopped(Net):
    """Asks early stopping how long it has waited."""

    def on_train_end(self):
        """Keep it."""
        self.waited = self.trainer.early_stopping_callback.wait_count


class _OfTasks(Dataset):
    tasks = ("lift", "push", "lift", "push", *["lift9"] * 16, *["fold"] * 20)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return torch.ones(4), self.tasks[index]


class Tasks(Data):
    """Names the task of each sample."""

    def val_dataloader(self):
        """Return samples of four tasks, one after the other."""
        return DataLoader(_OfTasks(), batch_size=2)


class PerTask(Net):
    """Logs its validation for each task."""

    def validation_step(self, batch, batch_idx):
        """Log by the names in the batch."""
        del batch_idx
        for x, task in zip(*batch, strict=True):
            self.log(f"held_out/{task}", self.layer(x).pow(2).mean(), batch_size=1)


class AllTasks(Net):
    """Logs its validation for all tasks of a batch."""

    def validation_step(self, batch, batch_idx):
        """Log by the names in the batch."""
        del batch_idx
        losses = {task: self.layer(x).pow(2).mean() for x, task in zip(*batch, strict=True)}
        self.log_dict({f"held_out/{task}": loss for task, loss in losses.items()}, batch_size=2)


class _Uploader:
    should_stop = False

    def save_checkpoint(self, path):
        """Note what is to be uploaded."""
        self.path = path


class Uploading(Net):
    """Has an uploader on rank 0, which is stopped there."""

    def __init__(self) -> None:
        super().__init__()
        self.uploader = _Uploader()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """Go on."""
        del outputs, batch, batch_idx
        if self.trainer.is_global_zero:
            self.uploader.save_checkpoint("last.ckpt")
            self.uploader.should_stop = True
            self.trainer.should_stop = False


class Growing(Net):
    """Keeps what it has seen in a buffer, which grows."""

    def __init__(self, is_kept: bool = True):
        """Begin with nothing."""
        super().__init__()
        self.register_buffer("memory", torch.zeros(0, 4), persistent=is_kept)

    def training_step(self, batch, batch_idx):
        """Remember a batch."""
        self.memory = torch.cat([self.memory, batch[0]])
        return super().training_step(batch, batch_idx)
