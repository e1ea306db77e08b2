"""Classes whose faults a trial sees late: in the second batch, or in what one batch leaves out."""

import signal
import sys

import torch
from lab import SAMPLES, Data, Net
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Doubling(Data):
    """Has numbers of twice the size that the model's have, as NumPy makes them."""

    def train_dataloader(self):
        """Return doubles."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4, dtype=torch.float64)), batch_size=4)


class Empty(Data):
    """Holds out nothing."""

    def val_dataloader(self):
        """Return no batch."""
        return DataLoader(TensorDataset(torch.ones(0, 4)), batch_size=4)


class Keeping(Net):
    """Keeps the graph of a batch, and goes back through it in the next one."""

    def training_step(self, batch, batch_idx):
        """Add what the batch before has left."""
        loss = super().training_step(batch, batch_idx) + getattr(self, "kept", 0)
        self.kept = loss
        return loss


class Breaking(Net):
    """Has a line that its author has forgotten."""

    def training_step(self, batch, batch_idx):
        """Stop."""
        breakpoint()  # noqa: T100 - that is the fault
        return super().training_step(batch, batch_idx)


class OfEpochs(Net):
    """Logs its loss once for an epoch, under its own name."""

    def training_step(self, batch, batch_idx):
        """Log no step."""
        del batch_idx
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


class Patient(Net):
    """Has a schedule look after each step at what a validation logs."""

    def configure_optimizers(self):
        """Return a schedule that steps too often."""
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        config = {"scheduler": schedule, "monitor": "val_loss", "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Lambda(Data):
    """Hands a function without a name to processes that are not forked."""

    def train_dataloader(self):
        """Return a loader that could not start them."""
        return DataLoader(
            TensorDataset(torch.ones(SAMPLES, 4)),
            batch_size=4,
            num_workers=2,
            multiprocessing_context="spawn",
            collate_fn=lambda items: [torch.stack(column) for column in zip(*items, strict=True)],
        )


class Unwritable(Net):
    """Puts what no file can hold into its checkpoints."""

    def on_save_checkpoint(self, checkpoint):
        """Add a function."""
        checkpoint["scale"] = lambda x: x / 2


class Moving(Net):
    """Is sure that there is a GPU."""

    def training_step(self, batch, batch_idx):
        """Move the batch there."""
        return super().training_step([part.cuda() for part in batch], batch_idx)


class Silent(Net):
    """Keeps its loss to itself."""

    def training_step(self, batch, batch_idx):
        """Return nothing."""
        super().training_step(batch, batch_idx)


class PerSample(Net):
    """Returns one loss for each sample."""

    def training_step(self, batch, batch_idx):
        """Return a vector."""
        del batch_idx
        return self.layer(batch[0]).pow(2).mean(1)


class Pixels(Data):
    """Has bytes, as images are stored."""

    def train_dataloader(self):
        """Return bytes."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4, dtype=torch.uint8)), batch_size=4)


class TwoLoaders(Data):
    """Validates twice, for which Lightning adds to the names of metrics."""

    def val_dataloader(self):
        """Return two."""
        return [super().val_dataloader(), super().val_dataloader()]


class OfLoaders(Net):
    """Validates on each of them."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        """Log a metric."""
        del dataloader_idx
        super().validation_step(batch, batch_idx)


class Misnamed(LightningModule):
    """Has a method that nobody calls."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        """Log as most people do."""
        del batch_idx
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train_loss", loss)
        return loss

    def val_step(self, batch, batch_idx):
        """Log what is never seen."""
        del batch_idx
        self.log("val_loss", self.layer(batch[0]).pow(2).mean())

    def configure_optimizers(self):
        """Return one optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Idle(Net):
    """Steps its optimizer itself, or means to."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """Forget it."""
        return super().training_step(batch, batch_idx)


class Number(Net):
    """Takes its loss out of the graph."""

    def training_step(self, batch, batch_idx):
        """Return a number of Python."""
        del batch_idx
        return self.layer(batch[0]).mean().item()


class Requeueing(Net):
    """Takes the signal that asks for a checkpoint."""

    def on_train_start(self):
        """End at once."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())


class Misspelled(LightningModule):
    """Has its optimizers in a method that Lightning does not call."""

    def __init__(self):
        """Make one layer."""
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        """Return a loss."""
        del batch_idx
        return self.layer(batch).mean()

    def configure_optimisers(self):
        """Return one."""
        return torch.optim.SGD(self.parameters(), 0.1)


class Gathering(Net):
    """Gathers on rank 0 what the other ranks do not give."""

    def on_validation_epoch_end(self):
        """Return early on the others."""
        if self.global_rank != 0:
            return
        self.all_gather(torch.ones(1))


class Pairs:
    """Batches that take no sampler."""

    def __iter__(self):
        """Yield neighbours."""
        return iter([[0, 1], [2, 3]])

    def __len__(self):
        """Return how many there are."""
        return 2


class OwnBatches(Data):
    """Chooses its batches itself."""

    def train_dataloader(self):
        """Return a loader whose batches Lightning cannot divide."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4)), batch_sampler=Pairs())
