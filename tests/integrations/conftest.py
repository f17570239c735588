"""spandrel imports torchvision for two architectures of its own, which no test here runs. The only
torchvision for Linux is built for CUDA and cannot be imported beside the CPU build of torch."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """The names that spandrel imports. Gone afterwards: other packages look whether it is there."""

    def absent(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("tests have no torchvision")

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    vars(modules[names[2]]).update(rotate=absent, normalize=absent, InterpolationMode=absent)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


if importlib.util.find_spec("spandrel") and not importlib.util.find_spec("torchvision"):
    with stand_in_for_torchvision():
        importlib.import_module("spandrel")
