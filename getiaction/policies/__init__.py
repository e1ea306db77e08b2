"""Policies: networks that map observations to actions."""

from getiaction.policies.act import ACT

__all__ = ["ACT"]
