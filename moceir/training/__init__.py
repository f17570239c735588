"""Training: configuration, data, loss, one step, the loop around it, and the run itself."""
