"""Classes that count while they train; a restart matters to some of them."""

import torch
from lab import Net
from lightning.pytorch import Callback


class Warming(Net):
    """Warms a part of its loss up by a number that no checkpoint has."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def training_step(self, batch, batch_idx):
        """Add a penalty that grows."""
        self.calls += 1
        weight = min(1.0, self.calls / 1000)
        loss = super().training_step(batch, batch_idx)
        return loss + weight * self.layer.weight.square().mean()


class WarmingOn(Warming):
    """Does the same, and says itself what a checkpoint has of it."""

    def on_save_checkpoint(self, checkpoint):
        """Keep the number."""
        checkpoint["calls"] = self.calls

    def on_load_checkpoint(self, checkpoint):
        """Bring it back."""
        self.calls = checkpoint["calls"]


class Buffered(Warming):
    """Does the same with a buffer, which checkpoints have."""

    def __init__(self):
        Net.__init__(self)
        self.register_buffer("calls", torch.tensor(0))


class Counting(Net):
    """Counts what it only shows, or forgets after each epoch or so many steps."""

    def __init__(self):
        super().__init__()
        self.calls = self.micro = 0
        self.total = 0.0

    def training_step(self, batch, batch_idx):
        """Show and sum up."""
        loss = super().training_step(batch, batch_idx)
        self.calls += 1
        self.micro += 1
        self.total += 1.0
        rate = self.calls / 2
        self.log("rate", rate)
        if self.calls % 100 == 0:
            self.print(f"{self.calls} calls at {rate}")
        if self.micro == 4:
            self.micro = 0
        return loss

    def on_train_epoch_end(self):
        """Begin anew."""
        self.log("mean", self.total / self.micro)
        self.total = 0.0


class Curriculum(Callback):
    """Makes the task harder after each epoch."""

    def __init__(self):
        self.difficulty = 0.0

    def on_train_epoch_end(self, trainer, pl_module):
        """Make it harder."""
        del trainer, pl_module
        self.difficulty = min(1.0, self.difficulty + 0.25)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Change the batch."""
        del trainer, pl_module, batch_idx
        batch[0].add_(self.difficulty)


class Lasting(Curriculum):
    """Does the same, with a state of its own."""

    def state_dict(self):
        """Keep the number."""
        return {"difficulty": self.difficulty}

    def load_state_dict(self, state_dict):
        """Bring it back."""
        self.difficulty = state_dict["difficulty"]


class Best(Callback):
    """Keeps the best model by a score of its own."""

    def __init__(self):
        self.best = float("inf")

    def on_validation_end(self, trainer, pl_module):
        """Save the model if it is better."""
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.best:
            self.best = loss
            pl_module.best_at = trainer.global_step
