"""spandrel imports torchvision for two architectures of its own that no test here runs."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def _functional() -> ModuleType:
    """What spandrel imports by name. The one wheel of torchvision there is for Linux needs CUDA's
    torch: beside the CPU build it fails when it is imported."""

    def absent(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("tests have no torchvision")

    module = ModuleType("torchvision.transforms.functional")
    vars(module).update(rotate=absent, normalize=absent, InterpolationMode=absent)
    return module


if not importlib.util.find_spec("torchvision"):
    sys.modules["torchvision"] = ModuleType("torchvision")
    sys.modules["torchvision.transforms"] = ModuleType("torchvision.transforms")
    sys.modules["torchvision.transforms.functional"] = _functional()
