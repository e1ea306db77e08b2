"""Training of robot policies: a Trainer, policies, datasets and the `getiaction` command."""
