"""Our weights files: round trip, what is refused, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moceir.errors import WeightsError
from moceir.model import MoCEIR, load_model, load_weights, save_weights
from moceir.weights.bundled import BUNDLED, SPECIALISTS, TOGETHER, bundled_path
from tests.published_weights import TINY


@pytest.fixture(scope="module")
def model() -> MoCEIR:
    torch.manual_seed(0)
    return MoCEIR(TINY)


def same(a: MoCEIR, b: MoCEIR) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_round_trip(tmp_path: Path, model: MoCEIR) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    again = load_weights(path)
    assert again.config == model.config
    assert not again.training
    assert same(model, again)
    assert same(model, load_model(path))
    assert same(model, load_model(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_half_precision_loads_as_float32(tmp_path: Path, model: MoCEIR) -> None:
    path = tmp_path / "half.safetensors"
    save_weights(model, path, torch.float16)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    again = load_weights(path)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_hugging_face_style(tmp_path: Path, model: MoCEIR) -> None:
    model.save_pretrained(tmp_path / "hub")
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["dim"] == TINY.dim
    again = MoCEIR.from_pretrained(tmp_path / "hub")
    assert again.config == model.config
    assert same(model, again)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights(name: str) -> None:
    bundled = load_model(name)
    assert 1_000_000 <= sum(p.numel() for p in bundled.parameters()) <= 3_000_000
    assert all(torch.isfinite(p).all() for p in bundled.parameters())
    card = TOGETHER if name in SPECIALISTS else name
    assert bundled_path(name).with_name(f"{card}.md").is_file()


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_a_truncated_file(tmp_path: Path, model: MoCEIR, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_weights(model, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut\.safetensors.*not a complete safetensors file"):
        load_weights(path)


def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="no MoCE-IR configuration"):
        load_weights(path)
    path.write_text("a picture, honestly")
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load_weights(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "configuration cannot be used"),
        ('{"dimm": 3}', "did you mean 'dim'"),
        ('{"dim": 3}', "dim is 3"),
        ("[]", "configuration cannot be used"),
    ],
)
def test_a_bad_configuration(tmp_path: Path, config: str, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"moceir.config": config})
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


def test_tensors_that_do_not_fit(tmp_path: Path, model: MoCEIR) -> None:
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    state["surplus"] = torch.zeros(1)
    state["stem.weight"] = torch.zeros(16, 3, 1, 1)
    del state["output.weight"]
    path = tmp_path / "other.safetensors"
    save_file(state, path, {"moceir.config": json.dumps(model.config.to_dict())})
    with pytest.raises(WeightsError) as error:
        load_weights(path)
    for part in (str(path), "missing output.weight", "surplus surplus", "stem.weight has shape"):
        assert part in str(error.value)


FULL_DISK = """
import resource, sys
from pathlib import Path
from moceir.model import MoCEIR
from moceir.model import save_published, save_weights
from tests.published_weights import TINY
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save = save_published if sys.argv[1].endswith(".ckpt") else save_weights
try:
    save(MoCEIR(TINY), Path(sys.argv[1]))
except OSError as error:
    print("OSError", error)
"""


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("before")
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.startswith("OSError"), run.stderr
    assert name in run.stdout
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_weights_have_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    path = tmp_path / "w.safetensors"
    save_weights(MoCEIR(TINY), path)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    path.chmod(0o640)
    save_weights(MoCEIR(TINY), path)
    assert path.stat().st_mode & 0o777 == 0o640
