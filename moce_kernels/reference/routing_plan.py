"""The routing plan, defined in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def routing_plan(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose ``top_k`` experts for every image and sort the choices by expert.

    logits: (B, n). Returns

    * ``index`` (B, k) int64: the chosen experts, best first; ties go to the lower index;
    * ``gate`` (B, k): their softmax over all n logits, not renormalised (eq. 4 of the paper);
    * ``order`` (B * k,) int64: slots ``b * k + j``, stably sorted by expert;
    * ``offsets`` (n + 1,) int64: expert i owns ``order[offsets[i]:offsets[i + 1]]``.
    """
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = logits.to(compute).softmax(dim=-1)
    # Unlike topk, a stable sort says which of two equal experts wins, on every device.
    index = logits.detach().sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    gate = scores.gather(1, index)
    slots = index.flatten()
    order = slots.argsort(stable=True)
    experts = torch.arange(logits.shape[1], device=logits.device)
    load = (slots[None, :] == experts[:, None]).sum(dim=1)
    return index, gate, order, torch.cat([load.new_zeros(1), load.cumsum(0)])
