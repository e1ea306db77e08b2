"""The Action Chunking Transformer (ACT) of Zhao et al. 2023, https://arxiv.org/abs/2304.13705."""

from getiaction.policies.act.policy import ACT

__all__ = ["ACT"]
