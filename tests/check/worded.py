"""Steps and samples of which torch and Lightning say little."""

from lab import SAMPLES, Data, Net
from torch.utils.data import DataLoader


class Numbered(Net):
    """Returns a number."""

    def training_step(self, batch, batch_idx):
        """Return no tensor."""
        loss = super().training_step(batch, batch_idx)
        return loss.item()


class Backward(Net):
    """Trains on what is held out."""

    def validation_step(self, batch, batch_idx):
        """Call backward without gradients."""
        del batch_idx
        self.layer(batch[0]).mean().backward()


class Unnamed(Data):
    """Has samples without an instruction."""

    def train_dataloader(self):
        """Return dicts with None."""
        return DataLoader([{"task": None, "state": 1.0}] * SAMPLES, batch_size=4)
