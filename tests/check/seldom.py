"""Classes with samples that few batches have, and callers of what a Trainer may not have."""

import os
import tempfile
import time
from pathlib import Path

import torch
from lab import SAMPLES, Data, Net
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler


class _Rows(Dataset):
    """Has one sample that is not like the others."""

    def __init__(self, odd: str, index: int) -> None:
        self.odd, self.index, self.reads = odd, index, 0

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.reads += 1
        if index != self.index:
            return torch.ones(4), torch.ones(1)
        if self.odd == "fetched":
            return _fetched()
        if self.odd == "lost":
            torch.load(Path("episode_17.pt"))
        return None if self.odd == "none" else (torch.ones(3), torch.ones(1))


def _fetched():
    import urllib.request

    try:
        urllib.request.urlopen("https://example.org/row")
    except OSError:
        return None
    return torch.ones(4), torch.ones(1)


def _present(rows):
    return torch.utils.data.default_collate([row for row in rows if row is not None])


class _Open(Dataset):
    """Reads an open file, in which it is where it has read last."""

    def __init__(self) -> None:
        self.rows = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
        self.rows.write(torch.arange(float(SAMPLES)).repeat_interleave(4).numpy().tobytes())
        self.rows.seek(0)
        self.file, self.at = self.rows.fileno(), 0

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        os.lseek(self.file, 16 * (index - self.at), os.SEEK_CUR)
        self.at = index + 1
        row = torch.frombuffer(bytearray(os.read(self.file, 16)), dtype=torch.float32)
        if row[0] != index:
            message = f"row {index} has {row[0]}"
            raise ValueError(message)
        return (row / SAMPLES,)


class Open(Data):
    """Trains and validates in the order of a file."""

    def setup(self, stage):
        """Open it."""
        del stage
        self.rows = _Open()

    def train_dataloader(self):
        """Do not shuffle."""
        return DataLoader(self.rows, batch_size=4)

    val_dataloader = train_dataloader


class Preparing(Data):
    """Takes a while to prepare what all ranks read, and must not be disturbed."""

    def __init__(self, times: int, per_node: bool = True) -> None:
        super().__init__()
        self.times, self.prepare_data_per_node = times, per_node

    def prepare_data(self):
        """Write it."""
        with Path("busy").open("x"):
            time.sleep(0.2)
            with Path("prepared.txt").open("a") as file:
                file.write("x")
        Path("busy").unlink()

    def setup(self, stage):
        """Read it."""
        del stage
        if not 1 <= len(Path("prepared.txt").read_text()) <= self.times:
            raise ValueError("prepared too often")


class Holes(Data):
    """Has one odd sample to train on, or to validate on."""

    def __init__(
        self,
        odd: str = "none",
        index: int = 17,
        held_out: bool = False,
        batch_size: int = 4,
        how: str = "",
    ) -> None:
        super().__init__()
        self.odd = _Rows(odd, index)
        self.even = _Rows("even", -1)
        self.held_out, self.batch_size, self.how = held_out, batch_size, how

    def train_dataloader(self):
        """Shuffle, or draw, or leave out."""
        rows = self.even if self.held_out else self.odd
        options = {"shuffle": True}
        if self.how == "weighted":
            weights = torch.ones(SAMPLES)
            weights[rows.index] = 0
            options = {"sampler": WeightedRandomSampler(weights, SAMPLES)}
        elif self.how == "first":
            options = {"sampler": torch.utils.data.RandomSampler(range(8))}
        elif self.how == "collated":
            options["collate_fn"] = _present
        elif self.how == "dropped":
            options = {"drop_last": True}
        return DataLoader(rows, batch_size=self.batch_size, **options)

    def val_dataloader(self):
        """Do not shuffle."""
        return DataLoader(self.odd if self.held_out else self.even, batch_size=self.batch_size)


class _Sorted(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return torch.ones(1 + index // 4, 4)


class Sorted(Data):
    """Has samples of many lengths, and in each batch those of one."""

    def train_dataloader(self):
        """Keep the order."""
        return DataLoader(_Sorted(), batch_size=4)


class Sparing(Net):
    """Sees how often samples were read."""

    def on_train_end(self):
        """Compare with what was trained."""
        if self.trainer.datamodule.odd.reads > SAMPLES // 2:
            raise ValueError("samples were read that nobody trains on")


class Best(Callback):
    """Says at the end which checkpoint is the best."""

    def on_train_end(self, trainer, pl_module):
        """Keep it."""
        del pl_module
        self.seen = trainer.checkpoint_callback.best_model_path


class Careful(Callback):
    """The same, if there is one."""

    def on_train_end(self, trainer, pl_module):
        """Keep it."""
        del pl_module
        if trainer.checkpoint_callback:
            self.seen = trainer.checkpoint_callback.best_model_path


class First(Callback):
    """Says at the end when the first checkpoint was saved."""

    def on_train_end(self, trainer, pl_module):
        """Keep it."""
        del pl_module
        self.seen = trainer.checkpoint_callbacks[0].current_score


class Stopper(Callback):
    """Says how patient training is."""

    def on_train_epoch_end(self, trainer, pl_module):
        """Keep it."""
        del pl_module
        stopper = trainer.early_stopping_callback
        self.seen = stopper.patience


class Filing(Net):
    """Writes a file beside its curves."""

    def __init__(self, everywhere: bool = True) -> None:
        super().__init__()
        self.everywhere = everywhere

    def on_validation_epoch_end(self):
        """Write it."""
        if self.everywhere or self.trainer.is_global_zero:
            Path(self.logger.experiment.log_dir, "errors.txt").write_text("0.1")


class Folder(Net):
    """Asks its logger where it writes."""

    def on_train_start(self):
        """Keep it."""
        self.seen = self.logger.log_dir


class Hidden(Net):
    """Keeps how wide it is."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = hidden
        self.save_hyperparameters()


class HiddenData(Data):
    """Keeps it, too."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = hidden
        self.save_hyperparameters()


class Stageless(Data):
    """Forgot what Lightning calls it with."""

    def setup(self):
        """Do nothing."""


class Renamed(Data):
    """Has another name for it."""

    def setup(self, step):
        """Do nothing."""


class Keeping(Net):
    """Keeps its optimizer for itself, and steps it."""

    def configure_optimizers(self):
        """Return nothing."""
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def on_after_backward(self):
        """Step it."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class Unlearning(Net):
    """Wants no optimizer."""

    def configure_optimizers(self):
        """Return none of those that there are."""
        return {"sgd": torch.optim.SGD(self.parameters(), lr=0.1)}.get("none")


class Constant(Data):
    """Divides a column that never changes by its deviation."""

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        rows = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
        rows[:, 2] = 1.0
        self.rows = (rows - rows.mean(0)) / (rows.std(0) + least)

    def train_dataloader(self):
        """Shuffle."""
        return DataLoader(TensorDataset(self.rows), batch_size=4, shuffle=True)


class Masked(Net):
    """Averages over samples of which two alone may have none."""

    def training_step(self, batch, batch_idx):
        """Weigh it by the fourth one and those behind it."""
        return super().training_step(batch, batch_idx) * batch[0][3:].mean()


class Skipping(Net):
    """Leaves out the steps of a loss that is NaN."""

    def training_step(self, batch, batch_idx):
        """Return no loss then."""
        loss = super().training_step(batch, batch_idx)
        return None if loss.isnan() else loss


class Content(Net):
    """Stops once its loss is small on its own samples."""

    def __init__(self, agrees: bool = False) -> None:
        super().__init__()
        self.agrees = agrees

    def training_step(self, batch, batch_idx):
        """Compare with what is good enough on this rank."""
        is_done = batch_idx >= 3 + 2 * self.global_rank
        if self.agrees:
            is_done = self.trainer.strategy.reduce_boolean_decision(is_done, all=False)
        if is_done:
            self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)
