"""What a script does as one of several ranks: its Trainer, samples, GPUs, and what ranks share."""
