"""MoCE-IR for spandrel, the library by which chaiNNer and ComfyUI load networks from weights files.

>>> from spandrel import ModelLoader
>>> from moceir.integrations import spandrel
>>> spandrel.install()
>>> restored = ModelLoader().load_from_file("weights.safetensors")(image)
"""

from __future__ import annotations

from typing import Any

try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelTiling,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is missing: pip install 'moceir[spandrel]'", name=error.name
    ) from error

from moceir.model import MoCEIR, load_published
from moceir.weights.checkpoints import OURS, of_network
from moceir.weights.names import current_names
from moceir.weights.published import infer_own_config

# What no other network has, in the published code and here. Wrappers put prefixes before it.
_SIGNS = ("adapter.routing.freq_gate.weight", "experts.router.from_frequency.weight")


class MoCEIRArch(Architecture[MoCEIR]):
    """MoCE-IR as spandrel knows networks: by their tensors alone.

    Tensors do not tell ``top_k`` or a rank schedule, so these are the defaults, 1 and ``spread``,
    as in the published networks.
    """

    def __init__(self) -> None:
        super().__init__(id="MoCEIR", name="MoCE-IR", detect=_has_our_signs)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[MoCEIR]:
        """The network of a state_dict, with the published names of its tensors or with ours.

        Raises:
            WeightsError: tensors that are missing, surplus, misshapen or not finite.
        """
        ours = of_network(state_dict, OURS)
        config = None if ours is None else infer_own_config(current_names(ours))
        model = load_published(state_dict, config)
        return ImageModelDescriptor(
            model,
            model.state_dict(),
            architecture=self,
            purpose="Restoration",
            tags=[f"{model.config.dim} channels"],
            # Its lower precisions are autocast's (Restorer has them): parameters stay float32.
            supports_half=False,
            supports_bfloat16=False,
            scale=1,
            input_channels=3,
            output_channels=3,
            # Router and channel attention look at the whole picture: see docs/restore.md, "Tiles".
            tiling=ModelTiling.DISCOURAGED,
        )


def _has_our_signs(state_dict: dict[str, Any]) -> bool:
    return any(key.endswith(_SIGNS) for key in state_dict)


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Let spandrel's ``ModelLoader`` recognise MoCE-IR. A second call changes nothing.

    Args:
        registry: of a ``ModelLoader``; by default the one that all of them use.
    """
    registry.add(ArchSupport.from_architecture(MoCEIRArch()), ignore_duplicates=True)
