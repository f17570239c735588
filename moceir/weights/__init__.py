"""Weights: our safetensors files, the published checkpoints, the bundled weights."""

from moceir.errors import WeightsError
from moceir.weights.bundled import BUNDLED, bundled_path
from moceir.weights.files import load_weights, save_weights
from moceir.weights.load import load_model
from moceir.weights.published import load_published, save_published

__all__ = [
    "BUNDLED",
    "WeightsError",
    "bundled_path",
    "load_model",
    "load_published",
    "load_weights",
    "save_published",
    "save_weights",
]
