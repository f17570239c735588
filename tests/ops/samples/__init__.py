"""The samples of each operator in a file that bears its name; from them its tests and benchmarks.

A file has these functions, each of which yields ``Sample``s:

    samples()           ragged sizes and all memory layouts
    tiny()              the smallest ones, for gradcheck in float64, opcheck and compilation
    launched()          each way in which Triton's kernels can be launched; one with sizes of 1,
                        which Triton turns into constants: code that takes them for tensors fails
    timed(batch, side)  for benchmarks: of about so many images of side x side pixels
"""

from __future__ import annotations

import importlib
import pkgutil

from moce_kernels import registry
from tests.ops.spec import OpSpec


def spec_of(name: str) -> OpSpec:
    """
    Raises:
        ModuleNotFoundError: the operator has no file here.
        AttributeError: one of the functions is not in it.
    """
    file = importlib.import_module(f"{__name__}.{name}")
    return OpSpec(name, file.samples, file.tiny, file.launched, file.timed)


FILES = {module.name for module in pkgutil.iter_modules(__path__)}
# A test fails where there is no file.
SPECS = tuple(spec_of(name) for name in registry.names() if name in FILES)
