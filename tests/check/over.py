"""Classes whose faults show when an epoch is over, or training is: the last batch, a restart."""

import torch
from lab import SAMPLES, Data, Net
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Uneven(Data):
    """Has fewer samples in its last batch."""

    def __init__(self, rest: int = 2) -> None:
        super().__init__()
        self.rest = rest

    def train_dataloader(self):
        """Return ten batches and a rest."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES + self.rest, 4)), batch_size=4)

    def val_dataloader(self):
        """Return the same."""
        return DataLoader(TensorDataset(torch.ones(SAMPLES + self.rest, 4)), batch_size=4)


class Stacking(Net):
    """Takes all batches for equally large."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def validation_step(self, batch, batch_idx):
        """Keep the batch."""
        super().validation_step(batch, batch_idx)
        self.seen.append(batch[0])

    def on_validation_epoch_end(self):
        """Stack what was kept."""
        torch.stack(self.seen)
        self.seen.clear()


class Particular(Stacking):
    """Only takes batches of four, and so is tried twice."""

    def validation_step(self, batch, batch_idx):
        """Reshape to the batch that it was written for, after it was kept."""
        super().validation_step(batch, batch_idx)
        batch[0].reshape(4, 4)


class Announcing(Net):
    """Logs where Lightning logs no more."""

    def on_validation_end(self):
        """Log a metric."""
        self.log("checked", 1.0)


class Freezing(Net):
    """Freezes more than its author meant to, after one epoch."""

    def on_train_epoch_start(self):
        """Freeze all there is."""
        self.requires_grad_(requires_grad=self.current_epoch == 0)


class Impatient(Net):
    """Reads in the first validation, before any training, what training logs."""

    def on_validation_epoch_end(self):
        """Compare the two."""
        self.log("gap", self.trainer.callback_metrics["train_loss_step"])


class _Pairs(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        rows = torch.ones(SAMPLES, 4).split(1)
        return rows[index][0], rows[index + 1][0]


class Following(Data):
    """Wants a sample behind the last one."""

    def train_dataloader(self):
        """Return neighbours."""
        return DataLoader(_Pairs(), batch_size=4, shuffle=True)


class Counting(Callback):
    """Reads its state by another name than it has written it by."""

    def state_dict(self):
        """Write it."""
        return {"count": 3}

    def load_state_dict(self, state_dict):
        """Read it."""
        self.count = state_dict["counts"]


class Averaging(Net):
    """Reads from a checkpoint what it has not put there."""

    def on_save_checkpoint(self, checkpoint):
        """Put it there."""
        checkpoint["average"] = 1.0

    def on_load_checkpoint(self, checkpoint):
        """Read something else."""
        self.average = checkpoint["averages"]


class Returning(Net):
    """Has a hook of another shape than Lightning calls it by."""

    def on_save_checkpoint(self):
        """Return what nobody takes."""
        return {"lr": self.lr}


class Ignored(Net):
    """Has a schedule that Lightning does not find."""

    def __init__(self, key: str = "schedule", also: str = "") -> None:
        super().__init__()
        self.key, self.also = key, also

    def configure_optimizers(self):
        """Return it by some key."""
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        more = {self.also: 1} if self.also else {}
        return {"optimizer": optimizer, self.key: schedule, **more}


class Listed(Net):
    """Has layers in a list, of which torch does not know."""

    def __init__(self, number: int = 2) -> None:
        super().__init__()
        self.blocks = [torch.nn.Linear(4, 4) for _ in range(number)]

    def training_step(self, batch, batch_idx):
        """Go through them."""
        x = batch[0]
        for block in self.blocks:
            x = block(x)
        return super().training_step([x], batch_idx)


class Closed(Net):
    """Steps its optimizer without the training step."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        """Forget the closure."""
        del epoch, batch_idx, optimizer_closure
        optimizer.step()


class Preparing(Data):
    """Has its data in one worker of a node alone."""

    def prepare_data(self):
        """Keep it."""
        self.rows = torch.ones(SAMPLES, 4)

    def train_dataloader(self):
        """Return what was kept."""
        return DataLoader(TensorDataset(self.rows), batch_size=4)


class Named(Net):
    """Logs its validation by names that another object has made."""

    def validation_step(self, batch, batch_idx):
        """Log what was given a prefix."""
        super().validation_step(batch, batch_idx)
        self.log_dict(dict.fromkeys(map("held_out/{}".format, "xy"), 1.0))


class PreparingTwice(Preparing):
    """Has each worker prepare."""

    def setup(self, stage):
        """Prepare once more."""
        del stage
        self.prepare_data()


class Agreeing(Net):
    """Has all ranks leave, once one of them wants to."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """Stop everywhere."""
        del outputs, batch
        if self.trainer.is_global_zero and batch_idx > 5:
            self.trainer.should_stop = True
        self.trainer.should_stop = self.trainer.strategy.broadcast(self.trainer.should_stop)


class Stopping(Net):
    """Has one rank leave."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """Stop on rank 0."""
        del outputs, batch
        if self.trainer.is_global_zero and batch_idx > 5:
            self.trainer.should_stop = True
