"""Classes that keep more than weights while they train, and schedules that count something else."""

import copy
from collections import deque

import torch
from lab import Net
from lightning.pytorch import Callback


class Averaging(Callback):
    """Averages the weights, for itself."""

    def __init__(self) -> None:
        self.average = None

    def on_fit_start(self, trainer, pl_module):
        """Begin with the model's own."""
        del trainer
        self.average = copy.deepcopy(pl_module.layer)

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Move them a bit."""
        del trainer, outputs, batch, batch_idx
        pairs = zip(self.average.parameters(), pl_module.layer.parameters(), strict=True)
        for mean, weight in pairs:
            mean.lerp_(weight, 0.1)


class Shadowing(Averaging):
    """Does so in a dict of weights."""

    def on_fit_start(self, trainer, pl_module):
        """Begin with the model's own."""
        del trainer
        self.average = {n: each.detach().clone() for n, each in pl_module.named_parameters()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Move them a bit."""
        del trainer, outputs, batch, batch_idx
        for name, weight in pl_module.named_parameters():
            self.average[name] = 0.9 * self.average[name] + 0.1 * weight


class Keeping(Averaging):
    """Has a checkpoint keep them."""

    def state_dict(self):
        """Return them."""
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state_dict):
        """Take them."""
        self.average.load_state_dict(state_dict["average"])


class Teaching(Averaging):
    """Has a copy that never changes."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Compare with it."""
        del trainer, outputs, batch_idx
        self.distance = (self.average(batch[0]) - pl_module.layer(batch[0])).norm()


class Remembering(Net):
    """Trains on earlier batches once more."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier = deque(maxlen=100)

    def training_step(self, batch, batch_idx):
        """Take the oldest one, too."""
        self.earlier.append(batch[0])
        return super().training_step([torch.cat([batch[0], self.earlier[0]])], batch_idx)


class RememberingAnEpoch(Remembering):
    """Forgets them at its end."""

    def on_train_epoch_end(self):
        """Begin anew."""
        self.earlier.clear()


class Plotting(Net):
    """Only shows what it has gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = []

    def training_step(self, batch, batch_idx):
        """Keep the loss."""
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        """Show it."""
        self.log("steps", float(len(self.losses)))


class Warming(Net):
    """Warms up, and may decay by epoch."""

    def __init__(self, interval: str = "epoch", warm_up: int = 500, decays: bool = False) -> None:
        super().__init__()
        self.interval, self.warm_up, self.decays = interval, warm_up, decays

    def factor(self, at):
        """Return the factor of the learning rate."""
        return 0.95**at if self.decays else min(1.0, at / self.warm_up)

    def configure_optimizers(self):
        """Return a schedule by an interval."""
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval},
        }
