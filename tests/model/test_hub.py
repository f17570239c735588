"""Networks by their names on the Hugging Face Hub, without a network to reach it by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from moceir import Restorer
from moceir.errors import WeightsError
from moceir.model import MoCEIR, load, load_model, save_weights
from tests.published_weights import TINY

NAME = "someone/moce-ir_v1.0"

# Before huggingface_hub 1.0 one class stood for what is neither there nor here.
NoFile = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's, and no network; in an empty folder."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_what_was_downloaded_is_loaded(cache: Path) -> None:
    torch.manual_seed(0)
    model = MoCEIR(TINY)
    repository = cache / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_weights(model, snapshot / "model.safetensors")
    restorer = Restorer(NAME, device="cpu")
    assert restorer.model.config == TINY
    for a, b in zip(model.parameters(), restorer.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_network(cache: Path) -> None:
    with pytest.raises(WeightsError, match=rf"^{NAME}: no such.*cannot be reached: connect"):
        Restorer(NAME)


def http(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None)
    return kind("told so", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http(errors.RepositoryNotFoundError), "nor is there such a repository"),
        (http(errors.GatedRepoError), "request access"),
        (http(NoFile), r"has no model\.safetensors"),
        (http(errors.HfHubHTTPError), r"cannot be downloaded from the Hugging Face Hub \(told so"),
        (
            errors.FileMetadataError("no size"),
            r"cannot be downloaded from the Hugging Face Hub \(no size",
        ),
    ],
)
def test_what_the_hub_refuses(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refused(*args: object) -> str:
        raise error

    monkeypatch.setattr(load, "hf_hub_download", refused)
    with pytest.raises(WeightsError, match=message):
        load_model(NAME)


@pytest.mark.parametrize(
    "name", ["runs/mine", "some/weights.safetensors", "a/b/c", "someone/", "../mine", "/mine"]
)
def test_a_mistyped_path_is_not_asked_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (cache.parent / "runs").mkdir()
    monkeypatch.setattr(load, "hf_hub_download", lambda *args: pytest.fail("asked the Hub"))
    with pytest.raises(WeightsError, match=r"no such weights; give a file"):
        load_model(name)


def test_a_folder_here_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MoCEIR(TINY).save_pretrained(cache.parent / NAME)
    monkeypatch.setattr(load, "hf_hub_download", lambda *args: pytest.fail("asked the Hub"))
    assert load_model(NAME).config == TINY


def test_the_card_of_a_network_has_no_blanks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(self: MoCEIR, repo_id: str, **settings: Any) -> str:
        self.save_pretrained(cache.parent / "network", **settings)
        return repo_id

    monkeypatch.setattr(huggingface_hub.PyTorchModelHubMixin, "push_to_hub", saved)
    model = MoCEIR(TINY)
    model.push_to_hub(NAME)
    card = huggingface_hub.ModelCard.load(cache.parent / "network/README.md")
    assert f'Restorer("{NAME}")' in card.text
    assert "More Information Needed" not in card.text and "{{" not in card.content
    assert "arxiv.org/abs/2411.18466" in card.text
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters (16 channels" in card.text
    assert (card.data.library_name, card.data.license) == ("moceir", "apache-2.0")
    assert card.data.pipeline_tag == "image-to-image"
