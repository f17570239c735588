"""The whole network (Fig. 2): encoder, bottleneck, decoder with complexity experts, refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, constants, hf_hub_download
from torch import Tensor, nn
from torch.nn import functional as F

from moce_kernels import pointwise_conv
from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.model.blocks import DecoderBlock, TransformerBlock
from moceir.model.experts import ExpertBank, ExpertLayer
from moceir.model.layers import (
    Conv3x3,
    DepthwiseConv,
    PointwiseConv,
    channels_last,
    padded,
    pixel_shuffle,
    pixel_unshuffle,
    pooled,
)
from moceir.model.routing import BlockRouting, Router, auxiliary_loss, of_frequency, routers
from moceir.weights.files import read_weights, write_weights
from moceir.weights.state import check_state

OPERATORS = (
    "channel_attention",
    "gated_feedforward",
    "grouped_experts",
    "pointwise_conv",
    "projected_depthwise_conv",
    "routing_plan",
    "transposed_attention",
)
"""The operators of ``moce_kernels`` that the network calls."""


class Routing(NamedTuple):
    """The routes of B images through the D decoder blocks, in the order in which these run."""

    expert: Tensor
    """(D, B, k) int64: the experts taken, best first; 0 is the cheapest."""
    gate: Tensor
    """(D, B, k) float32: their gates."""
    aux_loss: Tensor
    """Mean of the blocks' auxiliary losses (eq. 7), a scalar; zero in evaluation."""


class FrequencyEmbedding(nn.Module):
    """High-pass embedding of the bottleneck, which all routers see besides their features (eq. 4):
    (B, F, H, W) to (B, F)."""

    def __init__(self, dim: int, freeze_high_pass: bool) -> None:
        super().__init__()
        laplacian = torch.full((dim, 1, 3, 3), -1.0)
        laplacian[:, :, 1, 1] = 8.0
        self.high_pass = DepthwiseConv(dim, 3, bias=False)
        self.high_pass.weight = nn.Parameter(laplacian, requires_grad=not freeze_high_pass)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(pooled(F.gelu(self.high_pass(x))))


class EncoderLevel(nn.Module):
    """Blocks of one resolution, then half the resolution and twice the channels."""

    def __init__(self, dim: int, num_blocks: int, heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(TransformerBlock(dim, heads, ffn_expansion) for _ in range(num_blocks))
        )
        self.downsample = Conv3x3(dim, dim // 2)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Returns the features for the next level and adds those for the skip connection."""
        skips.append(self.blocks(x))
        return pixel_unshuffle(self.downsample(skips[-1]))


class DecoderLevel(nn.Module):
    """Twice the resolution, fusion with the skip connection, blocks with complexity experts."""

    def __init__(self, config: MoCEIRConfig, level: int) -> None:
        super().__init__()
        dim, heads = config.dims[level], config.heads[level]
        self.upsample = Conv3x3(2 * dim, 4 * dim)
        self.fuse = PointwiseConv(2 * dim, dim, bias=False)
        self.blocks = nn.ModuleList()
        for _ in range(config.num_dec_blocks[level]):
            # On the expert path what experts add has to be of the size of what they are given.
            gain = math.sqrt(3) if config.expert_path else 1.0
            bank = ExpertBank(dim, config.ranks(level), config.windows, gain)
            router = Router(
                dim,
                config.dims[-1],
                bank.complexity(),
                top_k=config.top_k,
                use_complexity=config.router == "complexity",
                scale=config.complexity_scale,
                noise=config.routing_noise,
            )
            experts = ExpertLayer(bank, router)
            block = DecoderBlock(dim, heads, config.ffn_expansion, experts, config.expert_path)
            self.blocks.append(block)

    def forward(
        self, x: Tensor, skips: list[Tensor], frequency: list[Tensor]
    ) -> tuple[Tensor, list[BlockRouting]]:
        """Takes the last of ``skips`` off, so that its memory is free after the fusion, and its
        blocks' from the front of ``frequency``, see ``of_frequency``."""
        x = pixel_shuffle(self.upsample(x))
        skip = skips.pop()
        # The 1x1 convolution of both, one beside the other; of a folded network `upsample` contains
        # the first.
        *of_x, of_skip = self.fuse.weight.flatten(1).split(skip.shape[1], dim=1)
        x = pointwise_conv(skip, of_skip, residual=pointwise_conv(x, *of_x) if of_x else x)
        del skip
        routings = []
        for block in self.blocks:
            x, routing = block(x, frequency.pop(0))
            routings.append(routing)
        return x, routings


CARD = """---
{{ card_data }}
---

# MoCE-IR

All-in-one image restoration with complexity experts: one network for noise, rain, haze, blur, low
light, snow and JPEG artefacts. It has {{ parameters }} parameters ({{ dim }} channels,
{{ experts }} experts per decoder block).

With the package moceir installed:

```python
from moceir import Restorer

Restorer("{{ repository }}")("photo.jpg").save("restored.png")
```

Method: [Complexity Experts are Task-Discriminative Learners for Any Image
Restoration]({{ paper_url }}) (Zamfir et al., CVPR 2025).
"""
"""Of a network on the Hugging Face Hub: a Jinja template."""


class MoCEIR(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="moceir",
    tags=["image-restoration"],
    license="apache-2.0",
    pipeline_tag="image-to-image",
    paper_url="https://arxiv.org/abs/2411.18466",
    model_card_template=CARD,
):
    """MoCE-IR (Zamfir et al., CVPR 2025).

    >>> model = MoCEIR(preset("moce_ir_s")).eval()
    >>> restored = model(image)
    >>> restored, routing = model(image, return_routing=True)
    >>> model.save_pretrained("folder")
    >>> model = MoCEIR.from_pretrained("folder")
    """

    def __init__(self, config: MoCEIRConfig) -> None:
        super().__init__()
        self.config = config
        dims, heads, ffn = config.dims, config.heads, config.ffn_expansion
        *levels, deepest = range(len(dims))

        self.stem = Conv3x3(3, dims[0])
        self.encoder = nn.ModuleList(
            EncoderLevel(dims[i], config.num_blocks[i], heads[i], ffn) for i in levels
        )
        self.bottleneck = nn.Sequential(
            *(TransformerBlock(dims[-1], heads[-1], ffn) for _ in range(config.num_blocks[deepest]))
        )
        self.frequency_embedding = FrequencyEmbedding(dims[-1], config.freeze_high_pass)
        self.decoder = nn.ModuleList(DecoderLevel(config, i) for i in reversed(levels))
        self.refinement = nn.Sequential(
            *(TransformerBlock(dims[0], heads[0], ffn) for _ in range(config.num_refinement_blocks))
        )
        self.output = Conv3x3(dims[0], 3)
        # Convolutions on channels-last weights are several times faster on CPUs.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image: Tensor, return_routing: bool = False
    ) -> Tensor | tuple[Tensor, Routing]:
        """Restore a batch of images.

        Args:
            image: (B, 3, H, W) floating point, RGB in [0, 1]; any B, H and W from 1. Sides that
                are not multiples of 2^(levels - 1) are padded by reflection, and cropped after.
            return_routing: also return the routes and the auxiliary loss.

        Returns:
            The restored images (B, 3, H, W), not clamped; with ``return_routing`` a pair of them
            and a ``Routing``.

        Raises:
            ValueError: another shape or dtype.
        """
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape[2:]:
            raise ValueError(f"image has shape {tuple(image.shape)}: give (B, 3, H, W), RGB")
        if not image.is_floating_point():
            raise ValueError(f"image has dtype {image.dtype}: give floating point in [0, 1]")

        whole = self.pad(image)
        x = self.stem(channels_last(whole))
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x, skips)
        x = self.bottleneck(x)
        frequency = of_frequency([*routers(self.decoder)], self.frequency_embedding(x))
        routings: list[BlockRouting] = []
        for level in self.decoder:
            x, of_level = level(x, skips, frequency)
            routings += of_level
        for block in self.refinement:
            x = block(x)
        x = self.output(x) + whole
        restored = x[..., : image.shape[2], : image.shape[3]]
        if not return_routing:
            return restored
        return restored, Routing(
            expert=torch.stack([r.plan.expert for r in routings]),
            gate=torch.stack([r.plan.gate for r in routings]),
            aux_loss=auxiliary_loss(routings),
        )

    def pad(self, image: Tensor) -> Tensor:
        """Reflect at the right and the bottom to whole cells of the coarsest level."""
        return padded(image, self.config.cell)

    @classmethod
    def with_weights(cls, config: MoCEIRConfig, state: Mapping[str, Tensor]) -> MoCEIR:
        """A float32 network, in evaluation mode, with the tensors of a state_dict.

        Nothing of its size is allocated before the tensors are known to fit.

        Raises:
            WeightsError: a missing, surplus, misshapen or integer tensor, or one with values that
                are not finite.
        """
        blocks = sum((*config.num_blocks, *config.num_dec_blocks, config.num_refinement_blocks))
        if blocks > len(state):  # each has several: it need not even be counted which
            raise WeightsError(f"{len(state)} tensors for a configuration of {blocks} blocks")
        with torch.device("meta"):
            own = cls(config).state_dict()
        check_state(own, state)
        model = cls(config)
        model.load_state_dict(dict(state))
        return model.eval()

    # The hooks of PyTorchModelHubMixin.

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        filled_in = {
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}",
            "dim": self.config.dim,
            "experts": self.config.num_experts,
            "repository": "folder",
        }
        return super().generate_model_card(*args, **{**filled_in, **kwargs})

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> str:
        """Publish the network, with a card that names ``repo_id``; see PyTorchModelHubMixin."""
        card = {"repository": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        place = save_directory / constants.SAFETENSORS_SINGLE_FILE
        write_weights(self.config, self.state_dict(), place)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = True,
        config: object = None,
        **download: Any,
    ) -> MoCEIR:
        # The weights file carries its configuration; config.json is there for people and the Hub.
        path = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            path = Path(hf_hub_download(model_id, constants.SAFETENSORS_SINGLE_FILE, **download))
        return cls.with_weights(*read_weights(path)).to(map_location)
