"""The worker's last word."""

import pytest
import torch.distributed

from getiaction_launch.worker import _tells_of_a_lost_peer


@pytest.mark.parametrize(
    ("error", "is_echo"),
    [
        (RuntimeError("[.../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0"), True),
        (ConnectionResetError("Connection reset by peer"), True),
        (ValueError("no such gripper"), False),
        (FileNotFoundError("checkpoint.ckpt"), False),
    ],
)
def test_a_lost_peer_is_told_from_a_cause(error, is_echo):
    """What collectives say when another rank has gone is not shown before that rank's error."""
    assert _tells_of_a_lost_peer(error) is is_echo
