"""Predicts without a GPU what a network launches on one, and how long that should take."""
