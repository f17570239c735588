"""The published checkpoints, both ways, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moceir.errors import WeightsError
from moceir.model import MoCEIR, load_model, load_published, save_published
from moceir.model.load import to_published
from moceir.weights.published import infer_config
from tests.published_weights import CONFIGS, TINY, filled, shapes

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> Tensors:
    return filled(shapes("tiny"))


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_names_and_shapes_are_theirs(name: str) -> None:
    with torch.device("meta"):
        state = to_published(MoCEIR(CONFIGS[name]))
    assert {key: list(tensor.shape) for key, tensor in state.items()} == shapes(name)


def test_there_and_back_is_exact(published: Tensors) -> None:
    back = to_published(load_published(published, TINY))
    for key, tensor in published.items():
        if not key.endswith("complexity"):
            assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_the_configuration_is_read_off_the_tensors(name: str) -> None:
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes(name).items()}
    assert infer_config(empty) == CONFIGS[name].replace(routing_noise="train")


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_files(tmp_path: Path, published: Tensors, suffix: str) -> None:
    model = load_published(published, TINY)
    path = tmp_path / f"model{suffix}"
    save_published(model, path)
    content = torch.load(path, weights_only=True)
    if suffix == ".ckpt":
        assert all(key.startswith("net.") for key in content["state_dict"])
    again = load_model(path)
    assert not again.training
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing output\.weight"),
        ("surplus", r"surplus extra\.weight"),
        ("misshapen", r"output\.weight has shape \(3, 16, 1, 1\), expected \(3, 16, 3, 3\)"),
        ("expert", r"missing dec\.0\.2\.layers\.0\.adapter\.experts\.2\.0\.body\.q\.weight"),
        ("integer", r"output\.weight has dtype torch\.int64"),
    ],
)
def test_tensors_that_do_not_fit(published: Tensors, change: str, message: str) -> None:
    state = dict(published)
    if change == "missing":
        del state["output.weight"]
    elif change == "surplus":
        state["extra.weight"] = torch.zeros(1)
    elif change == "misshapen":
        state["output.weight"] = torch.zeros(3, 16, 1, 1)
    elif change == "expert":
        del state["dec.0.2.layers.0.adapter.experts.2.0.body.q.weight"]
    else:
        state["output.weight"] = torch.zeros(3, 16, 3, 3, dtype=torch.int64)
    with pytest.raises(WeightsError, match=message):
        load_published(state, TINY)


def test_weights_of_something_else() -> None:
    with pytest.raises(WeightsError, match="not the weights of a published MoCE-IR"):
        load_published({"conv.weight": torch.zeros(1)})


class Harmful:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_no_pickled_code_is_run(tmp_path: Path, published: Tensors) -> None:
    harmed = tmp_path / "harmed"
    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": published, "extra": Harmful(harmed)}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_published(path)
    assert not harmed.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_truncated_file(tmp_path: Path, published: Tensors, keep: int) -> None:
    path = tmp_path / "cut.ckpt"
    save_published(load_published(published, TINY), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut\.ckpt"):
        load_published(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"other\.pt.*state_dict"):
        load_published(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_published(tmp_path / "none.ckpt")
    with pytest.raises(WeightsError, match=r"no such weights.*compact"):
        load_model(tmp_path / "none.ckpt")
