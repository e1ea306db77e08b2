"""Policies: networks that map observations to actions."""
