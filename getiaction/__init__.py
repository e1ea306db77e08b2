"""Train robot policies: Trainer, policies, data and the `getiaction` command."""
