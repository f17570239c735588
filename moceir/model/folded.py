"""A network made ready for inference on a GPU, where every launch costs, however little it does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moceir.model.attention import PreNormAttention
from moceir.model.blocks import DecoderBlock
from moceir.model.experts import ExpertBank
from moceir.model.feedforward import GatedFeedForward
from moceir.model.layers import ChannelNorm, Conv3x3, PointwiseConv, ProjectedDepthwiseConv
from moceir.model.network import DecoderLevel, FrequencyEmbedding, MoCEIR
from moceir.model.routing import Router


def folded(model: MoCEIR, dtype: torch.dtype) -> MoCEIR:
    """A copy for inference in which everything that follows from weights alone is computed already.

    Scale and shift of the norms are part of the 1x1 convolutions after them, two convolutions in a
    row are one, and weights that would be converted at every call are in the activations' dtype.
    Routers and banks of experts, which gain nothing, are the network's own.

    Args:
        model: is left as it is. What is done to its weights later does not reach the copy.
        dtype: of the activations.
    """
    own = {id(m): m for m in model.modules() if isinstance(m, (Router, ExpertBank))}
    network: MoCEIR = copy.deepcopy(model, own)
    # Parameters, not activations: in full precision.
    with torch.no_grad(), torch.autocast(model.output.weight.device.type, enabled=False):
        for module in network.modules():
            # The matrices of attention over channels stay as they are: each image has its own,
            # which a kernel makes of them.
            if isinstance(module, GatedFeedForward):
                _fold(module.norm, module.project_in)
                _convert(dtype, module.project_in, module.project_out)
            elif isinstance(module, PreNormAttention):
                _fold(module.norm, module.qkv)
                _convert(dtype, module.qkv)
            elif isinstance(module, DecoderBlock):
                shared = module.shared_expert
                _join(shared.project_in, shared.qkv)
                shared.project_in = None
                _fold(module.norm, shared.qkv, module.to_routed)
                _convert(dtype, shared.qkv, module.to_routed, module.expert_path)
            elif isinstance(module, ProjectedDepthwiseConv):
                _join(module.project_in, module.projection)
                module.project_in = None
                _convert(dtype, module.projection)
            elif isinstance(module, DecoderLevel):
                _fuse(module)
                _convert(dtype, module.fuse)
            elif isinstance(module, (Conv3x3, FrequencyEmbedding)):
                for part in module.modules():
                    _convert(dtype, part, bias=True)
    return network


class Folded:
    """``folded`` of a network that may change.

    ``refresh`` notices weights that were replaced or changed in place. The copy then gets new
    values where it is in memory, so that CUDA graphs that read it stay right. It also notices
    modules that were replaced, and settings of routers and experts, such as ``forced_expert``,
    which a graph does not read again. Unnoticed are changes that PyTorch does not count: in place
    through ``.data``, by fused optimisers, by replayed graphs, and of tensors made in inference
    mode.
    """

    network: MoCEIR
    """The copy; another one after modules were replaced."""

    def __init__(self, model: MoCEIR, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._lock = threading.Lock()
        self._build()

    def _build(self) -> None:
        self._modules = list(self._model.modules())
        self._shared = [m for m in self._modules if isinstance(m, (Router, ExpertBank))]
        self._built_of, self._set = self._parts(), self._settings()
        self._seen, self._held = self._versions(), self._weights()
        self.network = folded(self._model, self._dtype)
        self._places = [t.data_ptr() for t in self.network.state_dict().values()]

    def refresh(self) -> bool:
        """Before the network is used. Returns whether graphs of it are out of date: modules were
        replaced, or weights of routers or experts, so that what they read has moved, or settings
        changed."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._parts() != self._built_of:
                self._build()
                return True
            versions, settings = self._versions(), self._settings()
            changed, self._set = settings != self._set, settings
            if versions == self._seen:
                return changed
            fresh, places = folded(self._model, self._dtype).state_dict(), []
            for name, t in self.network.state_dict().items():
                places.append(t.data_ptr())
                if t.data_ptr() != fresh[name].data_ptr():  # else it is the network's own
                    t.copy_(fresh[name])
            moved, self._places = places != self._places, places
            self._seen, self._held = versions, self._weights()
            return moved or changed

    def _parts(self) -> list[nn.Module | None]:
        """The modules in each module. Compared by identity, which is what modules do."""
        return [part for module in self._modules for part in module._modules.values()]

    def _settings(self) -> list[tuple[object, ...]]:
        """Of what the copy shares with the network: they reach it at once, but no graph."""
        return [
            (m.top_k, m.noise, m.forced, m.training) if isinstance(m, Router) else (m.every,)
            for m in self._shared
        ]

    def _weights(self) -> list[Tensor]:
        """While they are held, no other weights can come to where they are."""
        return [p.detach() for p in self._parameters()]

    def _versions(self) -> list[tuple[int, int]]:
        """Where each weight is, and how often it was written to."""
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self._parameters()]

    def _parameters(self) -> Iterator[Tensor]:
        for module in self._modules:
            yield from (p for p in module._parameters.values() if p is not None)


def _parameter(t: Tensor) -> nn.Parameter:
    return nn.Parameter(t, requires_grad=False)


def _join(first: PointwiseConv | None, second: PointwiseConv) -> None:
    """``second`` becomes ``x -> second(first(x))``."""
    if first is None:
        return
    weight, bias = second.after(first)
    second.weight = _parameter(weight[..., None, None])
    second.bias = None if bias is None else _parameter(bias)


def _fold(norm: ChannelNorm, *convolutions: PointwiseConv) -> None:
    """Scale and shift of the norm become part of the convolutions after it."""
    for one in convolutions:
        weight = one.weight.flatten(1)
        bias = weight @ norm.bias if one.bias is None else torch.addmv(one.bias, weight, norm.bias)
        one.weight = _parameter((weight * norm.weight)[..., None, None])
        one.bias = _parameter(bias)
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)


def _fuse(level: DecoderLevel) -> None:
    """The 1x1 convolution of what is upsampled becomes part of the upsampling: both are linear, and
    pixel shuffle moves groups of four channels, which it leaves together."""
    of_x, of_skip = level.fuse.weight.chunk(2, dim=1)
    upsample = level.upsample.weight.unflatten(0, (-1, 4))
    weight = torch.einsum("nc,ck...->nk...", of_x[..., 0, 0], upsample).flatten(0, 1)
    level.upsample.weight = _parameter(weight.contiguous(memory_format=torch.channels_last))
    level.fuse.weight = _parameter(of_skip)


def _convert(dtype: torch.dtype, *modules: nn.Module | None, bias: bool = False) -> None:
    """The weights, and with ``bias`` all parameters, of the modules themselves."""
    for module in modules:
        if module is None:
            continue
        for name, p in module._parameters.items():
            if p is not None and (bias or name == "weight"):
                setattr(module, name, _parameter(p.to(dtype)))
