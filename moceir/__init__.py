"""MoCE-IR: all-in-one image restoration with complexity experts.

>>> from moceir import Restorer
>>> Restorer()("photo.jpg").save("restored.png")

The commands of ``moceir`` are also functions here: ``restore_files``, ``degrade_files``,
``evaluate``, ``routes``, ``measure_cost``, ``export_onnx``, ``export_pt2``, ``convert_weights``
and ``write_comparison``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moceir.config import MoCEIRConfig, preset
    from moceir.data.degradations import degrade_file
    from moceir.evaluation.cost import measure_cost
    from moceir.evaluation.protocol import benchmarks
    from moceir.evaluation.routes import routes
    from moceir.evaluation.run import evaluate, write_results
    from moceir.inference.batch import restore_files
    from moceir.inference.degrading import degrade_files
    from moceir.inference.export import convert_weights, export_onnx, export_pt2
    from moceir.inference.planning import plan_files
    from moceir.inference.restorer import Restorer
    from moceir.model import MoCEIR, load_model
    from moceir.web.compare import write_comparison

__version__ = "0.1.0"

_HOMES = {
    "MoCEIR": "moceir.model",
    "MoCEIRConfig": "moceir.config",
    "Restorer": "moceir.inference.restorer",
    "benchmarks": "moceir.evaluation.protocol",
    "convert_weights": "moceir.inference.export",
    "degrade_file": "moceir.data.degradations",
    "degrade_files": "moceir.inference.degrading",
    "evaluate": "moceir.evaluation.run",
    "export_onnx": "moceir.inference.export",
    "export_pt2": "moceir.inference.export",
    "load_model": "moceir.model",
    "measure_cost": "moceir.evaluation.cost",
    "plan_files": "moceir.inference.planning",
    "preset": "moceir.config",
    "restore_files": "moceir.inference.batch",
    "routes": "moceir.evaluation.routes",
    "write_comparison": "moceir.web.compare",
    "write_results": "moceir.evaluation.run",
}

__all__ = [
    "MoCEIR",
    "MoCEIRConfig",
    "Restorer",
    "benchmarks",
    "convert_weights",
    "degrade_file",
    "degrade_files",
    "evaluate",
    "export_onnx",
    "export_pt2",
    "load_model",
    "measure_cost",
    "plan_files",
    "preset",
    "restore_files",
    "routes",
    "write_comparison",
    "write_results",
]


def __getattr__(name: str) -> object:
    # torch is loaded when it is first needed: the command line answers --help without it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moceir' has no attribute {name!r}")
