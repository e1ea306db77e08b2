"""Inside a training process; the only folder that imports torch and Lightning."""
