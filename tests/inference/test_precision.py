"""Which precision ``auto`` is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moceir.errors import ConfigError
from moceir.inference.precision import AUTO, chosen
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from tests.published_weights import TINY

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: request.param)


@pytest.mark.parametrize("capability", [(8, 0), (12, 0)], indirect=True)
@pytest.mark.usefixtures("capability")
def test_auto_is_bfloat16_where_that_was_measured() -> None:
    for name in (None, "specialists", "compact", "haze"):
        assert chosen(AUTO, name, GPU) == "bfloat16"
    for other in ("compact.safetensors", Path("compact"), MoCEIR(TINY)):
        assert chosen(AUTO, other, GPU) == "float32"


@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
@pytest.mark.usefixtures("capability")
def test_older_gpus_have_no_bfloat16() -> None:
    assert chosen(AUTO, None, GPU) == "float32"


def test_on_a_cpu_auto_is_float32() -> None:
    assert chosen(AUTO, None, CPU) == "float32"
    assert Restorer("compact", "cpu", AUTO).precision == "float32"


def test_what_is_asked_for_is_chosen() -> None:
    assert chosen(None, None, GPU) == "float32"
    for precision in ("float32", "bfloat16", "float16"):
        assert chosen(precision, MoCEIR(TINY), CPU) == precision
    with pytest.raises(ConfigError, match="'int4': choose auto, float32"):
        chosen("int4", None, CPU)
