"""The name by which pickles of earlier versions know the sidecar; see ``step``."""

from getiaction_launch.node.sidecar import Sidecar as Company

__all__ = ["Company"]
