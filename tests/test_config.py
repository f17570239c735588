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
    ("schedule", "depths"),
    [
        ("constant", (2, 2, 2, 2)),
        ("lin", (2, 3, 4, 5)),
        ("double", (2, 4, 6, 8)),
        ("exp", (1, 2, 4, 8)),
        ("fact", (1, 2, 6, 24)),
    ],
)
def test_depth_schedules(schedule: str, depths: tuple[int, ...]) -> None:
    config = MoCEIRConfig(depth_schedule=schedule, stage_depth=(3, 1, 2))
    assert config.depths(0) == depths  # the published code lists the deepest level first


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
        ({"stage_depth": (1, 1.5, 1)}, "stage_depth.*whole numbers"),
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
    ],
)
def test_a_bad_value_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoCEIRConfig().replace(**overrides)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"'moce_irs'.*did you mean"):
        preset("moce_irs")
