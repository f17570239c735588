"""A model of the GPU that needs none: what a network launches, and how long that should take."""
