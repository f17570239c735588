"""Training on Lightning: configuration, loss, data, checkpoints and the run itself."""
