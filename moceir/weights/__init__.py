"""Configurations and tensors in files: ours, the published checkpoints, the bundled weights.

What makes networks of them is ``moceir.model.load``.
"""
