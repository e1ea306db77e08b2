"""The name of the sidecar in pickles of earlier versions; see ``step``."""

from getiaction_launch.node.sidecar import Sidecar as Company

__all__ = ["Company"]
