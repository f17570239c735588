"""Configurations and tensors in files: ours, the published checkpoints, the bundled weights.

``moceir.model.load`` builds networks from them.
"""
