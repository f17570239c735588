"""Configurations: schedules, limits and messages."""

from __future__ import annotations

import pytest

from moceir.config import MoCEIRConfig, preset
from moceir.errors import ConfigError


def test_presets_have_the_papers_dimensions() -> None:
    assert preset("moce_ir_s").dims == (32, 64, 128, 256)
    assert preset("moce_ir").dims == (48, 96, 192, 384)
    assert preset("moce_ir").ranks(0) == (6, 12, 24, 48)
    assert preset("moce_ir").windows == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("schedule", "ranks"),
    [
        ("spread", (4, 8, 16, 32)),
        ("constant", (3, 3, 3, 3)),
        ("lin", (3, 4, 5, 6)),
        ("double", (3, 5, 7, 9)),
        ("exp", (3, 9, 27, 81)),
        ("fact", (6, 24, 120, 720)),
    ],
)
def test_rank_schedules(schedule: str, ranks: tuple[int, ...]) -> None:
    assert MoCEIRConfig(rank_schedule=schedule, rank=3).ranks(0) == ranks


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dim": 31}, "dim"),
        ({"dim": 0}, "dim"),
        ({"dim": "32"}, "dim.*whole number"),
        ({"dim": 4}, "spread ranks"),
        ({"heads": (3, 2, 4, 8)}, "heads of level 0"),
        ({"heads": (1, 2, 4)}, "heads has 3 entries"),
        ({"num_blocks": (4,)}, "two levels"),
        ({"num_blocks": (4, 0, 6, 8)}, "num_blocks.*1 or more"),
        ({"num_dec_blocks": (1, 1)}, "num_dec_blocks has 2 entries"),
        ({"num_dec_blocks": (1, 1.5, 1)}, "num_dec_blocks.*whole numbers"),
        ({"num_refinement_blocks": -1}, "num_refinement_blocks"),
        ({"ffn_expansion": 0}, "ffn_expansion"),
        ({"num_experts": 1}, "num_experts"),
        ({"num_experts": 5}, "num_experts"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 5}, "top_k"),
        ({"rank": 0}, "rank"),
        ({"rank_schedule": "spred"}, "rank_schedule.*spread"),
        ({"router": "best"}, "router.*complexity"),
        ({"routing_noise": True}, "routing_noise"),
        ({"freeze_high_pass": 1}, "freeze_high_pass.*true or false"),
        ({"num_expert": 3}, "did you mean 'num_experts'"),
        # What would hang or fill the memory.
        ({"dim": 10**9}, "dim is 1000000000: .* at most"),
        ({"dim": 10**400}, "dim is a number of more than 18 digits"),
        ({"num_blocks": (4, 10**9, 6, 8)}, "num_blocks is .*no entry may be more than"),
        ({"num_dec_blocks": (33, 1, 1)}, "num_dec_blocks is .*no entry may be more than 32"),
        ({"num_blocks": (1,) * 7}, "num_blocks has 7 entries: .*at most 6"),
        ({"num_refinement_blocks": 10**9}, "num_refinement_blocks is 1000000000: give 0 to"),
        ({"ffn_expansion": float("nan")}, "ffn_expansion is nan"),
        ({"ffn_expansion": float("inf")}, "ffn_expansion is inf"),
        ({"ffn_expansion": 1e-9}, "ffn_expansion is 1e-09: times dim 32"),
        ({"ffn_expansion": 1e9}, "ffn_expansion is 1000000000.0"),
        ({"rank_schedule": "fact", "rank": 10**7}, "rank is 10000000: give 1 to"),
        ({"rank_schedule": "fact", "rank": 1000}, "with rank_schedule 'fact' an expert would"),
        ({"rank_schedule": "exp", "rank": 12}, "with rank_schedule 'exp' an expert would"),
        ({"router": "x" * 10**6}, "^router is 'xxxxxxxxxxxx.{,60}: choose one of"),
        ({"d" * 10**6: 3}, "^unknown configuration field 'ddd.{,60}: known are"),
    ],
)
def test_a_bad_value_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoCEIRConfig().replace(**overrides)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"'moce_irs'.*did you mean"):
        preset("moce_irs")
