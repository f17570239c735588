"""What the command ``moceir restore`` is made of, short of the network."""
