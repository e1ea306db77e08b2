"""Action Chunking Transformer."""

from getiaction.policies.act.policy import ACT

__all__ = ["ACT"]
