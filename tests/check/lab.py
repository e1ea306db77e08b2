"""Classes of a user's own, right and wrong, which the specs and scripts of the corpus name."""

import os
import signal
import threading
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

SAMPLES = 40


class Net(LightningModule):
    """A linear model that logs what most people log."""

    def __init__(self, lr: float = 1e-2, width: int = 4, momentum: object = 0.9) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, width)
        self.lr, self.momentum = lr, momentum

    def training_step(self, batch, batch_idx):
        """Log one metric per step, and one per epoch."""
        del batch_idx
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        """Log a metric."""
        del batch_idx
        self.log("val_loss", self.layer(batch[0]).pow(2).mean())

    def configure_optimizers(self):
        """Return one optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


class Data(LightningDataModule):
    """Forty samples for training, and forty for validation."""

    def __init__(self, batch_size: int = 4, num_workers: int = 0, drop_last: bool = False, **kept):
        super().__init__()
        self.options = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "drop_last": drop_last,
        }
        self.options |= kept

    def train_dataloader(self):
        """Shuffle."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4)), shuffle=True, **self.options)

    def val_dataloader(self):
        """Do not shuffle."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4)), **self.options)


class Persistent(Data):
    """Keeps processes that it does not have."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__(num_workers=num_workers, persistent_workers=True)


class Prefetching(Data):
    """Has processes that do not exist fetch batches."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__(num_workers=num_workers, prefetch_factor=4)


class TrainingOnly(LightningDataModule):
    """Has no validation data."""

    def train_dataloader(self):
        """Return a few batches."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4)), batch_size=4)


class Missing(LightningDataModule):
    """Reads a folder that is not there."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, stage):
        """List the files."""
        del stage
        self.files = sorted(p.name for p in Path(self.folder).iterdir())


class Downloading(TrainingOnly):
    """Needs the network."""

    def prepare_data(self):
        """Fetch something."""
        import urllib.request

        urllib.request.urlopen("https://example.org/data.tar")

    def setup(self, stage):
        """Open what was fetched."""
        del stage
        Path("/nowhere/data.tar").read_bytes()


class _Stream(IterableDataset):
    def __iter__(self):
        return iter([torch.ones(4)] * SAMPLES)


class Streaming(LightningDataModule):
    """Has no length."""

    def train_dataloader(self):
        """Stream tuples."""
        return DataLoader(_Stream(), batch_size=4, collate_fn=lambda rows: [torch.stack(rows)])


class _Odd(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {"observation.state": torch.ones(4)}


class Dicts(LightningDataModule):
    """Has dicts, where the model wants tuples."""

    def train_dataloader(self):
        """Return dicts."""
        return DataLoader(_Odd(), batch_size=4)


class Narrow(LightningDataModule):
    """Has samples of another width."""

    def train_dataloader(self):
        """Return three numbers."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 3)), batch_size=4)


class FixedBatch(Net):
    """Can only have batches of four, as many research models."""

    def training_step(self, batch, batch_idx):
        """Reshape to the batch that it was written for."""
        batch[0].reshape(4, 4)
        return super().training_step(batch, batch_idx)


class Bare(Net):
    """Saves no hyperparameters."""

    def __init__(self, width: int = 4) -> None:
        LightningModule.__init__(self)
        self.layer = torch.nn.Linear(4, width)
        self.lr, self.momentum = 0.1, 0


class NoOptimizer(Net):
    """Forgot to return its optimizer."""

    def configure_optimizers(self):
        """Return nothing."""
        torch.optim.SGD(self.parameters(), lr=0.1)


class NoStep(LightningModule):
    """Forgot to say how it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def configure_optimizers(self):
        """Return one optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Frozen(Net):
    """Has all its weights frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(requires_grad=False)


class Unused(Net):
    """Has weights that take no part."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Linear(4, 4)


class Plateau(Net):
    """Waits for a metric."""

    def __init__(self, monitor: str = "val_loss") -> None:
        super().__init__()
        self.monitor = monitor

    def configure_optimizers(self):
        """Return a scheduler too."""
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor},
        }


class NoMonitor(Net):
    """Forgot to say what its scheduler waits for."""

    def configure_optimizers(self):
        """Return a scheduler too."""
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)]


class OneCycle(Net):
    """Has a schedule of some number of steps."""

    def __init__(self, total_steps: int = 1000, interval: str = "step") -> None:
        super().__init__()
        self.total_steps, self.interval = total_steps, interval

    def configure_optimizers(self):
        """Return a scheduler that counts steps, or epochs."""
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.total_steps)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


class Nan(Net):
    """Divides by zero."""

    def training_step(self, batch, batch_idx):
        """Return NaN."""
        return super().training_step(batch, batch_idx) * float("nan")


class Manual(Net):
    """Steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """Do everything."""
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Normalised(Net):
    """Has batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))


class Whole(Net):
    """Has its data in the model."""

    def train_dataloader(self):
        """Return a few batches."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES, 4)), batch_size=4)


class Writing(Net):
    """Writes a file in its first step, as a model that keeps samples."""

    def training_step(self, batch, batch_idx):
        """Keep a sample."""
        Path("sample.txt").write_text("a sample")
        return super().training_step(batch, batch_idx)


class Warning(Net):  # noqa: A001 - as users call things
    """Warns."""

    def training_step(self, batch, batch_idx):
        """Warn."""
        warnings.warn("beware", stacklevel=1)
        return super().training_step(batch, batch_idx)


class Crashing(Net):
    """Takes its process with it."""

    def __init__(self) -> None:
        super().__init__()
        os._exit(3)


class Hanging(Net):
    """Never comes back."""

    def __init__(self) -> None:
        super().__init__()
        threading.Event().wait()


class Preempting(Callback):
    """Saves on SIGTERM."""

    def on_fit_start(self, trainer, pl_module):
        """Take the signal."""
        del trainer, pl_module
        signal.signal(signal.SIGTERM, lambda *_: None)


class Logging(Callback):
    """Logs a metric that no model logs."""

    def on_train_epoch_end(self, trainer, pl_module):
        """Log it."""
        del trainer
        pl_module.log("of_callback", 1.0)


class Watching(Callback):
    """Has a monitor that is no metric of Lightning's."""

    def __init__(self, monitor: str = "temperature") -> None:
        super().__init__()
        self.monitor = monitor


class Broken(Callback):
    """Fails in its first hook."""

    def on_train_start(self, trainer, pl_module):
        """Look for what the model does not have."""
        del trainer
        return pl_module.encoder
