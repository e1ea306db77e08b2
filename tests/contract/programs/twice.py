"""One Trainer that fits, and then fits on for more epochs."""

from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from parts import QUIET, RUN, SEED, Net, keep, shuffled

from getiaction.train import Trainer

seed_everything(SEED, verbose=False)
model, loader = Net(), shuffled()
trainer = Trainer(
    max_epochs=2, log_every_n_steps=1, logger=CSVLogger(RUN, name="", version=""), **QUIET
)
trainer.fit(model, loader)
trainer.fit_loop.max_epochs = 4
trainer.fit(model, loader)
keep(model=model)
