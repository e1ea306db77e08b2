"""What optimizers make of the weights of any program, with Lightning or without."""
