"""What the selector learns from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from moceir.data.kinds import KINDS
from moceir.data.light import of_bytes
from moceir.model import MoCEIR
from moceir.model.selector import DETAIL, LIGHT, Selector
from moceir.training.selector import inputs_of, losses, main, make_batch, recipe_of
from tests.small_network import SMALLEST


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(48, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).byte()


def test_targets_are_without_what_is_to_be_removed(clean: torch.Tensor) -> None:
    numbers = list(range(len(clean)))
    given = make_batch(clean, 0, numbers)
    untouched = of_bytes(clean)
    has = torch.from_numpy(recipe_of(0, numbers).strength > 0)
    light = has[:, [KINDS.index(kind) for kind in LIGHT]].any(1)
    has = has[:, [KINDS.index(kind) for kind in DETAIL]]
    unchanged, whole = 0, 0
    for target, wanted in zip(given.targets, given.wanted, strict=True):
        none = ~(has & (wanted > 0)).any(1)
        assert torch.equal(target[none], given.degraded[none])
        every = ~(has & (wanted == 0)).any(1) & ~light
        assert torch.equal(target[every], untouched[every])
        unchanged, whole = unchanged + int(none.sum()), whole + int(every.sum())
    assert 5 < unchanged < 80 and 5 < whole < 80
    # What is said to be there or not agrees with the recipe, but for what can hardly be seen.
    present = given.present > 0
    assert not (present & (given.certain == 0)).any()
    assert (present.sum() > 40) and not present[recipe_of(0, numbers).strength == 0].any()


def test_a_patch_depends_on_its_number_alone(clean: torch.Tensor) -> None:
    whole = make_batch(clean[:6], 3, list(range(6)))
    part = make_batch(clean[4:6], 3, [4, 5])
    for of_whole, of_part in zip(whole, part, strict=True):
        many = of_whole if isinstance(of_whole, list) else [of_whole]
        few = of_part if isinstance(of_part, list) else [of_part]
        for a, b in zip(many, few, strict=True):
            assert torch.allclose(a[4:6], b, atol=1.01 / 255)


def test_losses_reach_every_parameter(clean: torch.Tensor) -> None:
    torch.manual_seed(0)
    selector = Selector((8, 8, 8, 8))
    for parameter in selector.output.parameters():  # which begins at 0
        torch.nn.init.normal_(parameter, std=0.1)
    network = MoCEIR(SMALLEST).eval().requires_grad_(False)
    given = make_batch(clean[:8], 0, list(range(8)))
    of_patches, of_classifier = losses(selector, given, inputs_of(network, given.degraded))
    (of_patches + of_classifier).backward()
    for name, parameter in selector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_training_from_the_command_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(2):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((72, 64)).save(tmp_path / "in" / f"{i}.png")
    output = tmp_path / "selector.safetensors"
    words = [
        tmp_path / "in",
        "-o",
        output,
        "--steps",
        50,
        "--classifier-steps",
        50,
        "--batch",
        2,
        "--crop",
        32,
    ]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    tensors = load_file(output)
    Selector().load_state_dict(tensors)
    log = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in log] == [("all", 50), ("classifier", 50)]
    assert all(0 < value < 2 for line in log for value in line["losses"])
