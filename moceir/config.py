"""The configuration of a MoCE-IR network and its presets."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moceir.errors import ConfigError, short

WINDOWS = (4, 8, 16, 32)
"""Windows of the FFT attention of expert 1, 2, 3, 4."""

RANK_SCHEDULES = ("spread", "constant", "lin", "double", "exp", "fact")
ROUTERS = ("complexity", "balance", "supervised")
COMPLEXITY_SCALES = ("max", "min")
ROUTING_NOISE = ("train", "always", "never")

FORMER_FIELDS = ("depth_schedule", "stage_depth")
"""Fields of earlier versions that never changed a result. Files may have them: they are ignored."""

PRECISIONS = ("float32", "bfloat16", "float16")
"""What activations may be computed in, by PyTorch's names."""

# Upper bounds, far above the paper's networks: a configuration in an untrusted file must not make
# loading hang or fill memory.
MAX_LEVELS = 6
MAX_BLOCKS = 32
"""Of a level, and of the refinement."""
MAX_CHANNELS = 16384
"""Of the deepest level, of an expert, and of a feed-forward block inside, at full resolution."""


@dataclass(frozen=True)
class MoCEIRConfig:
    """The configuration of a network: its shape and its behaviour.

    Args:
        dim: channels C at full resolution; they double with each of the levels.
        num_blocks: encoder blocks of each level, the bottleneck last.
        num_dec_blocks: decoder blocks of each level but the deepest, full resolution first.
        num_refinement_blocks: blocks at full resolution after the decoder.
        heads: attention heads of each level; must divide the level's channels.
        ffn_expansion: ratio of hidden channels to channels in a feed-forward block.
        num_experts: complexity experts of a decoder block, 2 to 4, windows 4, 8, 16, 32.
        top_k: experts chosen per image (the paper: 1).
        rank_schedule: the experts' ranks. ``spread``: C / 2^(n-i), the published models. The
            published code also offers, for i = 0, 1, ...: ``constant`` (rank), ``lin`` (rank + i),
            ``double`` (rank + 2 i), ``exp`` (rank^(i+1)), ``fact`` ((rank + i)!).
        rank: the start of the schedules other than ``spread``.
        router: ``complexity`` weights the importance loss with the experts' parameter counts
            (eq. 5 and 6); ``balance`` does not (Riquelme et al. 2021); ``supervised`` is trained
            towards one expert per degradation (see ``expert_of`` of a training run).
        complexity_scale: b_i = p_i / p_max (``max``, the paper) or p_i / p_min (``min``).
        routing_noise: noise of std 1/n on the router's logits in ``train``ing only (default),
            ``always`` (the published code: evaluation is then random) or ``never``.
        expert_path: also add what the chosen experts changed to the features,
            ``x + W_out(sum_j g_j (e_j(x) - x))``, instead of using it only as the query of the
            cross attention, and normalise S before it modulates the experts. On this path the
            gates are not normalised away, so the reconstruction loss trains the router. Not in the
            paper, and off in its presets.
        freeze_high_pass: keep the Laplacian of the frequency embedding fixed, as the paper says;
            the published code trains it.

    Raises:
        ConfigError: a value out of range, by name.
    """

    dim: int = 32
    num_blocks: tuple[int, ...] = (4, 6, 6, 8)
    num_dec_blocks: tuple[int, ...] = (2, 4, 4)
    num_refinement_blocks: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.0
    num_experts: int = 4
    top_k: int = 1
    rank_schedule: str = "spread"
    rank: int = 2
    router: str = "complexity"
    complexity_scale: str = "max"
    routing_noise: str = "train"
    expert_path: bool = False
    freeze_high_pass: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check_type(field.name, value, field.default)
        for name, choices in (
            ("rank_schedule", RANK_SCHEDULES),
            ("router", ROUTERS),
            ("complexity_scale", COMPLEXITY_SCALES),
            ("routing_noise", ROUTING_NOISE),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is {short(getattr(self, name))}: choose one of {', '.join(choices)}"
                )
        self._check_levels()
        self._check_channels()
        if not 0 <= self.num_refinement_blocks <= MAX_BLOCKS:
            raise ConfigError(
                f"num_refinement_blocks is {short(self.num_refinement_blocks)}: give 0 to "
                f"{MAX_BLOCKS}"
            )
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"top_k is {short(self.top_k)}: choose 1 to num_experts={self.num_experts}"
            )

    def _check_levels(self) -> None:
        """Every field has one entry per level, within bounds."""
        levels = len(self.num_blocks)
        if not 2 <= levels <= MAX_LEVELS:
            raise ConfigError(
                f"num_blocks has {levels} entries: give at least two levels (one "
                f"encoder, one bottleneck), and at most {MAX_LEVELS}"
            )
        for name, length in (("heads", levels), ("num_dec_blocks", levels - 1)):
            if len(getattr(self, name)) != length:
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} entries: num_blocks has {levels} "
                    f"levels, so give {length}"
                )
        for name in ("num_blocks", "num_dec_blocks", "heads"):
            if min(getattr(self, name)) < 1:
                raise ConfigError(
                    f"{name} is {short(getattr(self, name))}: every entry must be 1 or more"
                )
        for name in ("num_blocks", "num_dec_blocks"):
            if max(getattr(self, name)) > MAX_BLOCKS:
                raise ConfigError(
                    f"{name} is {short(getattr(self, name))}: no entry may be more than "
                    f"{MAX_BLOCKS}"
                )

    def _check_channels(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ConfigError(f"dim is {short(self.dim)}: give an even number of channels")
        if self.dims[-1] > MAX_CHANNELS:
            raise ConfigError(
                f"dim is {short(self.dim)}: it doubles with each of the {len(self.dims)} levels, "
                f"to at most {MAX_CHANNELS}"
            )
        for level, (channels, heads) in enumerate(zip(self.dims, self.heads, strict=True)):
            if channels % heads:
                raise ConfigError(
                    f"heads of level {level}: {short(heads)} does not divide {channels}"
                )
        # Written so that NaN is rejected.
        if not 1 <= self.dim * self.ffn_expansion <= MAX_CHANNELS:
            raise ConfigError(
                f"ffn_expansion is {short(self.ffn_expansion)}: times dim {self.dim} it must be "
                f"1 to {MAX_CHANNELS} hidden channels"
            )
        if not 2 <= self.num_experts <= len(WINDOWS):
            raise ConfigError(
                f"num_experts is {short(self.num_experts)}: choose 2 to 4 (windows {WINDOWS})"
            )
        if not 1 <= self.rank <= MAX_CHANNELS:
            raise ConfigError(f"rank is {short(self.rank)}: give 1 to {MAX_CHANNELS}")
        if min(self.ranks(0)) < 1:
            raise ConfigError(f"dim {self.dim} is too small for {self.num_experts} spread ranks")
        if max(self.ranks(0)) > MAX_CHANNELS:
            raise ConfigError(
                f"rank is {self.rank}: with rank_schedule {self.rank_schedule!r} an expert would "
                f"have more than {MAX_CHANNELS} channels"
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.dim * 2**level for level in range(len(self.num_blocks)))

    @property
    def cell(self) -> int:
        """Pixels at full resolution to a pixel of the deepest level: sides are padded to multiples
        of it."""
        return 2 ** (len(self.dims) - 1)

    @property
    def decoder_levels(self) -> tuple[int, ...]:
        """The level of each decoder block, in the order in which they run."""
        deepest_first = reversed(range(len(self.num_dec_blocks)))
        return tuple(level for level in deepest_first for _ in range(self.num_dec_blocks[level]))

    @property
    def windows(self) -> tuple[int, ...]:
        """Window of each expert."""
        return WINDOWS[: self.num_experts]

    def ranks(self, level: int) -> tuple[int, ...]:
        """Rank of each expert at a level (0: full resolution)."""
        n, r = self.num_experts, self.rank
        schedule = {
            "spread": lambda i: self.dims[level] // 2 ** (n - 1 - i),
            "constant": lambda i: r,
            "lin": lambda i: r + i,
            "double": lambda i: r + 2 * i,
            "exp": lambda i: r ** (i + 1),
            "fact": lambda i: math.factorial(r + i),
        }[self.rank_schedule]
        return tuple(schedule(i) for i in range(n))

    def replace(self, **overrides: Any) -> MoCEIRConfig:
        """A copy with some fields changed; an unknown name raises and names the nearest one."""
        return MoCEIRConfig.from_dict({**self.to_dict(), **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a weights file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> MoCEIRConfig:
        """The opposite of ``to_dict``, also of earlier versions' values.

        Raises:
            ConfigError: a name that it does not know, or a value out of range.
        """
        values = {**values}
        for former in FORMER_FIELDS:
            values.pop(former, None)
        known = [f.name for f in dataclasses.fields(MoCEIRConfig)]
        for name in values:
            if name not in known:
                raise ConfigError(_unknown("configuration field", name, known))
        return MoCEIRConfig(**values)


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {short(name)}: {hint}known are {', '.join(known)}"


def _check_type(name: str, value: Any, default: Any) -> None:
    if isinstance(default, tuple):
        good = isinstance(value, tuple) and all(type(v) is int for v in value)
        expected = "a list of whole numbers"
    elif isinstance(default, float):
        good = type(value) in (int, float)
        expected = "a number"
    else:
        good = type(value) is type(default)
        expected = {int: "a whole number", str: "a text", bool: "true or false"}[type(default)]
    if not good:
        raise ConfigError(f"{name} is {short(value)}: give {expected}")


PRESETS: dict[str, MoCEIRConfig] = {
    "compact": MoCEIRConfig(
        dim=16,
        num_blocks=(1, 2, 2, 2),
        num_dec_blocks=(1, 1, 1),
        num_refinement_blocks=1,
        expert_path=True,
    ),
    "moce_ir": MoCEIRConfig(dim=48),
    "moce_ir_s": MoCEIRConfig(dim=32),
}
"""The paper's two networks (11,477,752 and 25,353,796 parameters) and the bundled one."""


def preset(name: str) -> MoCEIRConfig:
    """The preset of that name; an unknown name raises ConfigError, which lists all of them."""
    if name not in PRESETS:
        raise ConfigError(_unknown("preset", name, list(PRESETS)))
    return PRESETS[name]
