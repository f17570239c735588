"""Names that tensors had in files of earlier versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

_EARLIER = (
    (r"(\bdecoder\.\d+\.blocks\.\d+)\.norm_attention\.", r"\1.norm."),
    (r"\.norm_attention\.", ".attention.norm."),
    (r"\.norm_feedforward\.", ".feedforward.norm."),
    (r"\.to_shared\.", ".shared_expert.project_in."),
    (r"\.experts\.project_out\.", ".cross_attention.query.project_in."),
    (r"\.cross_attention\.(query|key_value)\.weight$", r".cross_attention.\1.projection.weight"),
    (r"\.cross_attention\.(query|key_value)_depthwise\.", r".cross_attention.\1.depthwise."),
)
"""Earlier names on the left, today's on the right; the first pattern that fits is applied. None
fits a name of today."""

T = TypeVar("T")


def current_names(state: Mapping[str, T]) -> dict[str, T]:
    """A state_dict of any version by the names of today, in its own order."""
    return {_current(name): value for name, value in state.items()}


def _current(name: str) -> str:
    for pattern, replacement in _EARLIER:
        renamed, hits = re.subn(pattern, replacement, name)
        if hits:
            return renamed
    return name
