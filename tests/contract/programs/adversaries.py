"""Manual optimization with two optimizers, of which one steps twice as often."""

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from parts import QUIET, RUN, SEED, Net, keep, shuffled

from getiaction.train import Trainer


class Adversaries(Net):
    """A generator and a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = torch.nn.Linear(4, 1)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """Step the critic each time, the generator every second time."""
        (x,) = batch
        generator, critic = self.optimizers()
        loss = (self.critic(self.layers(x).detach()) - self.critic(x)).square().mean()
        critic.zero_grad()
        self.manual_backward(loss)
        critic.step()
        if batch_idx % 2:
            own = self.loss(batch) - self.critic(self.layers(x)).mean()
            generator.zero_grad()
            self.manual_backward(own)
            generator.step()
        self.log("train/loss", loss)

    def configure_optimizers(self):
        """Return one optimizer for each."""
        return (
            torch.optim.Adam(self.layers.parameters(), 0.05),
            torch.optim.SGD(self.critic.parameters(), 0.05, momentum=0.9),
        )


seed_everything(SEED, verbose=False)
model = Adversaries()
logger = CSVLogger(RUN, name="", version="")
Trainer(max_epochs=4, log_every_n_steps=1, logger=logger, **QUIET).fit(model, shuffled(16))
keep(model=model)
