"""Classes whose faults a trial sees late: in the second batch, or in what one batch leaves out."""

import torch
from lab import SAMPLES, Data, Net
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
