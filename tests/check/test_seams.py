"""What a check uses of Lightning's internals is still there."""

import struct

import pytest

from getiaction.cli import CLI
from getiaction_launch.checking.lightning_seams import is_of_checkpoint


def test_error_of_a_checkpoint_is_told_from_others(place, monkeypatch):
    """LightningCLI reads the hyperparameters in a method of its own."""
    monkeypatch.chdir(place)
    words = ["fit", "--config", "net.yaml", "--ckpt_path=junk.ckpt"]
    with pytest.raises(struct.error, match="unpack") as caught:
        CLI(args=words)
    assert is_of_checkpoint(caught.value)
    assert not is_of_checkpoint(ValueError())
