"""What a check uses of Lightning's internals is still there."""

import struct

import pytest
from torch.utils.data import get_worker_info
from torch.utils.data._utils import worker

from getiaction.cli import CLI
from getiaction_launch.checking.lightning_seams import (
    content_besides_weights,
    is_of_checkpoint,
    pretend_worker,
)


def test_error_of_a_checkpoint_is_told_from_others(place, monkeypatch):
    """LightningCLI reads the hyperparameters in a method of its own."""
    monkeypatch.chdir(place)
    words = ["fit", "--config", "net.yaml", "--ckpt_path=junk.ckpt"]
    with pytest.raises(struct.error, match="unpack") as caught:
        CLI(args=words)
    assert is_of_checkpoint(caught.value)
    assert not is_of_checkpoint(ValueError())


def test_dataset_is_told_of_its_worker(monkeypatch):
    """Torch tells only processes that it has started."""
    monkeypatch.setattr(worker, "_worker_info", None)
    pretend_worker([1, 2])
    told = get_worker_info()
    assert (told.id, told.num_workers, told.dataset) == (0, 1, [1, 2])


def test_what_a_model_adds_to_a_checkpoint_is_seen(place, monkeypatch):
    """Without a file, and without the weights."""
    monkeypatch.syspath_prepend(place)
    import lab
    import later
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", fast_dev_run=1, enable_progress_bar=False)
    trainer.fit(later.Unwritable(), lab.Data())
    content = content_besides_weights(trainer)
    assert callable(content["scale"])
    assert not {"state_dict", "optimizer_states"} & set(content)
