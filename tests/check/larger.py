"""Classes for larger machines than the one that checks them: right, and not to be tried here."""

import os
from pathlib import Path

import torch
import torch.distributed
from lab import SAMPLES, Data, Net
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


class OnGpu(Net):
    """Moves its batch itself."""

    def training_step(self, batch, batch_idx):
        """Use the GPU."""
        return super().training_step([batch[0].cuda()], batch_idx)


class OnlyOnGpu(Net):
    """Insists on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        if not torch.cuda.is_available():
            raise RuntimeError("This model needs a GPU.")


class Asserting(Net):
    """Makes sure of something that only the run's own ranks have."""

    def training_step(self, batch, batch_idx):
        """Look at the world."""
        assert self.trainer.world_size == 2, "train me on two ranks"
        return super().training_step(batch, batch_idx)


class Sharding(Data):
    """Has its own sampler."""

    def train_dataloader(self):
        """Each rank has its part."""
        dataset = TensorDataset(torch.ones(SAMPLES, 4))
        return DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset))


class Gathering(Net):
    """Asks for the world's size."""

    def training_step(self, batch, batch_idx):
        """Average by hand."""
        return super().training_step(batch, batch_idx) / torch.distributed.get_world_size()


class Large(Net):
    """Has no room here."""

    def __init__(self) -> None:
        super().__init__()
        raise MemoryError("no room for 400 GiB")


class Warmup(Net):
    """Has schedules of the length of the run."""

    def configure_optimizers(self):
        """Count on the Trainer."""
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        first = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / (steps // 10))
        then = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        last = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs - 1)
        del first, last
        return [optimizer], [{"scheduler": then, "interval": "step"}]


class Tracking(Net):
    """Talks to its tracker, and writes beside its curves."""

    def on_fit_start(self):
        """Note the shape of the run."""
        self.logger.experiment.config.update({"width": 4})
        self.logger.experiment["a/b"] = 3
        Path(self.trainer.log_dir, "note.txt").write_text("trained")
        Path(self.logger.log_dir, "other.txt").write_text("trained")


class Halved(Net):
    """Has weights of 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.layer.to(torch.bfloat16)


class OnNode(LightningDataModule):
    """Reads what only a job has."""

    def setup(self, stage):
        """Find the disk of the node."""
        del stage
        self.files = list(Path(os.environ["SLURM_TMPDIR"]).iterdir())
