"""What only a machine with an NVIDIA GPU can show, in minutes: see ``__main__``."""
