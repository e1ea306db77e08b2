"""Accumulated gradients, an exponential mean of the weights, and stochastic weight averaging."""

from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from parts import QUIET, SEED, Net, keep, shuffled

from getiaction.train import Trainer

AVERAGES = {
    "exponential": lambda: EMAWeightAveraging(decay=0.9),
    "stochastic": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2),
}
models = {}
for name, average in AVERAGES.items():
    seed_everything(SEED, verbose=False)
    models[name] = model = Net()
    trainer = Trainer(
        max_epochs=4, accumulate_grad_batches=3, log_every_n_steps=1, callbacks=[average()], **QUIET
    )
    trainer.fit(model, shuffled(), shuffled(6))
keep(**models)
