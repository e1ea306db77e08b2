"""Two Trainers, one after the other: the second one continues with the weights of the first."""

from lightning.pytorch import seed_everything
from parts import QUIET, SEED, Net, keep, shuffled

from getiaction.train import Trainer

seed_everything(SEED, verbose=False)
first = Net()
Trainer(max_epochs=2, log_every_n_steps=1, **QUIET).fit(first, shuffled(), shuffled(6))
second = Net(lr=0.01)
second.load_state_dict(first.state_dict())
Trainer(max_epochs=2, log_every_n_steps=1, **QUIET).fit(second, shuffled(), shuffled(6))
keep(first=first, second=second)
