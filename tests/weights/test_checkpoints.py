"""Checkpoints as people have them, and files that were made to do harm."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moceir.errors import WeightsError
from moceir.model import MoCEIR, load_model, load_published
from moceir.weights.checkpoints import read_checkpoint
from tests.published_weights import TINY, filled, shapes

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> Tensors:
    return filled(shapes("tiny"))


@pytest.fixture(scope="module")
def expected(published: Tensors) -> MoCEIR:
    return load_published(published)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: tensor for key, tensor in tensors.items()}


FORMS: dict[str, Callable[[Tensors, Tensors], Any]] = {
    "bare": lambda t, _: t,
    "data parallel": lambda t, _: prefixed("module.", t),
    "compiled": lambda t, _: prefixed("_orig_mod.", t),
    "lightning": lambda t, _: {"state_dict": prefixed("net.", t), "hyper_parameters": {"lr": 1}},
    "data parallel, compiled": lambda t, _: prefixed("_orig_mod.module.", t),
    "lightning, compiled": lambda t, _: {"state_dict": prefixed("net._orig_mod.", t), "epoch": 3},
    "parts compiled": lambda t, _: {
        k.replace("latent.", "latent._orig_mod."): v for k, v in prefixed("module.", t).items()
    },
    "model": lambda t, _: {"model": t, "optimizer": {"lr": 0.1}},
    "model.": lambda t, _: {"model": prefixed("model.module.", t)},
    "params": lambda t, _: {"params": t},
    "the average of two": lambda t, other: {"params": other, "params_ema": t},
    "another module beside it": lambda t, _: {
        "state_dict": prefixed("net.", t) | {"loss_fn.weight": torch.ones(3)}
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, published: Tensors, expected: MoCEIR, form: str) -> None:
    other = {key: tensor + 1 for key, tensor in published.items()}
    torch.save(FORMS[form](published, other), tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth")
    assert loaded.config == expected.config and not loaded.training
    for a, b in zip(loaded.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_safetensors_of_the_published_network(
    tmp_path: Path, published: Tensors, expected: MoCEIR
) -> None:
    save_file(prefixed("net.", published), tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    for a, b in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_our_names_need_a_configuration(tmp_path: Path, expected: MoCEIR) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": prefixed("module.", expected.state_dict())}, path)
    with pytest.raises(WeightsError, match=r"a\.pt: tensors of this package.*save_weights"):
        load_model(path)
    again = load_published(path, expected.config)
    for a, b in zip(again.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: prefixed("net.", t) | {f"teacher.{k}": v.clone() for k, v in t.items()},
            "2 networks.*net., teacher",
        ),
        (lambda t: t | {"teacher.output.weight": torch.zeros(1)}, "surplus teacher.*without these"),
        (
            lambda t: {"generator": {"net": t}},
            "contains no state_dict.*params_ema.*it has generator",
        ),
        (lambda t: {"weight": torch.zeros(1)}, r"no tensor is named patch_embed\.proj\.weight"),
        (
            lambda t: t | {"output.weight": torch.full((3, 16, 3, 3), torch.nan)},
            "output.weight has",
        ),
        (
            lambda t: {k: v * torch.inf if "latent" in k else v for k, v in t.items()},
            r"latent\.layers.* not finite, and so have \d+ more",
        ),
        (
            lambda t: t | {"output.weight": t["output.weight"].double() * 1e300},
            "output.weight has values that are not finite",
        ),
        (
            lambda t: t | {"output.weight": t["output.weight"].to_sparse()},
            "output.weight is sparse",
        ),
        (lambda t: t | {"output.weight": torch.empty(3, 16, 3, 3, device="meta")}, "has no data"),
        (
            lambda t: t | {"enc.99999999999.0.x": torch.zeros(1)},
            r"of the 4 layers named enc.*missing",
        ),
        (
            lambda t: t | {f"enc.{n}.x": torch.zeros(1) for n in range(10_000)},
            "10001 levels; at most 6",
        ),
        (
            lambda t: t | {"patch_embed.proj.weight": torch.zeros(1).expand(10**9, 3, 3, 3)},
            r"larger than the file.*t\.clone\(\)",
        ),
        (
            lambda t: t | {"latent.layers.0.mixer.temperature": torch.zeros(10**5, 1, 1)},
            "heads of level 3: 100000 does not divide 128",
        ),
    ],
)
def test_what_is_in_the_way_is_named(
    tmp_path: Path, published: Tensors, change: Callable[[Tensors], Any], message: str
) -> None:
    torch.save(change(dict(published)), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"a\.pth: .*{message}"):
        load_model(tmp_path / "a.pth")


def test_our_weights_that_are_not_finite(tmp_path: Path, expected: MoCEIR) -> None:
    state = {**expected.state_dict(), "output.weight": torch.full((3, 16, 3, 3), torch.nan)}
    path = tmp_path / "a.safetensors"
    config = {"moceir.config": json.dumps(expected.config.to_dict())}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, config)
    with pytest.raises(WeightsError, match=r"a\.safetensors: output\.weight has values.*diverged"):
        load_model(path)
    with pytest.raises(WeightsError, match=r"output\.weight has values that are not finite"):
        MoCEIR.with_weights(expected.config, state)
    with pytest.raises(WeightsError, match="1 tensors for a configuration of 8 blocks"):
        MoCEIR.with_weights(expected.config, {"output.weight": torch.zeros(3, 16, 3, 3)})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
@pytest.mark.parametrize("name", ["pipe.ckpt", "pipe.safetensors", "model.safetensors"])
def test_a_pipe_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for given in (tmp_path / name, tmp_path if name == "model.safetensors" else tmp_path / name):
        with pytest.raises(WeightsError, match=rf"{name}: a folder, pipe or device"):
            load_model(given)
    with pytest.raises(WeightsError, match=rf"{name}: a folder, pipe or device"):
        load_published(tmp_path / name)


def recompressed(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)


def test_compressed_entries_are_refused_and_the_remedy_works(
    tmp_path: Path, published: Tensors
) -> None:
    torch.save(published, tmp_path / "good.ckpt")
    recompressed(tmp_path / "good.ckpt", tmp_path / "small.ckpt")
    with pytest.raises(WeightsError, match=r"small\.ckpt: its entries are compressed") as error:
        load_model(tmp_path / "small.ckpt")
    remedy = str(error.value).partition("save it again: ")[2]
    exec(remedy, {"torch": torch, "path": tmp_path / "small.ckpt"})
    load_model(tmp_path / "small.ckpt")


HARMFUL = """
import resource, sys
from pathlib import Path
from moceir.errors import WeightsError
from moceir.model import load_model
from moceir.weights.bundled import bundled_path
load_model("compact")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
for path in sys.argv[1:]:
    try:
        load_model(path)
    except WeightsError as error:
        print(Path(path).name, "refused:", str(error)[:200])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to measure with")
def test_little_files_with_much_in_them(tmp_path: Path) -> None:
    """In 200 MB, which none of them may need."""
    torch.save({"a": torch.zeros(2**28, dtype=torch.uint8)}, tmp_path / "zeros")
    recompressed(tmp_path / "zeros", tmp_path / "bomb.ckpt")
    (tmp_path / "zeros").unlink()
    assert (tmp_path / "bomb.ckpt").stat().st_size < 2**20
    large = {
        "wide": {"dim": 512},
        "wide_feedforward": {"ffn_expansion": 1000.0},
        "deep": {"num_blocks": [32, 32, 32, 32], "dim": 256},
        "wide_experts": {"rank_schedule": "constant", "rank": 16384},
    }
    for name, overrides in large.items():
        config = TINY.replace(**overrides).to_dict()
        metadata = {"moceir.config": json.dumps(config)}
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors", metadata)
    nested = {"moceir.config": "[" * 200_000}
    save_file({"a": torch.zeros(1)}, tmp_path / "nested.safetensors", nested)
    paths = sorted(tmp_path.iterdir())
    run = subprocess.run(
        [sys.executable, "-c", HARMFUL, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    refused = [line.partition(" refused")[0] for line in run.stdout.splitlines()]
    assert refused == [p.name for p in paths], run.stdout + run.stderr


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path: Path) -> None:
    """Thirty tuples are fine, unless each holds the one before twice."""
    flat: tuple = ()
    nested: tuple = ()
    for _ in range(30):
        flat, nested = (flat, 1), (nested, nested)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "other": {flat: 1}}, tmp_path / "flat.ckpt")
    assert list(read_checkpoint(tmp_path / "flat.ckpt").state) == ["a"]
    for name, pickled in (("old.pth", True), ("new.ckpt", False)):
        content = {"state_dict": {"a": torch.zeros(1)}, "other": [nested]}
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not pickled)
        with pytest.raises(WeightsError, match="its tuples are nested too deeply"):
            read_checkpoint(tmp_path / name)


def test_pickles_are_checked_as_torch_reads_them(tmp_path: Path) -> None:
    """A file that begins as a pickle is no archive, whatever follows; and torch minds neither a
    checksum nor a name that differ."""
    nested: tuple = ()
    for _ in range(30):
        nested = (nested, nested)
    good, old, new = (tmp_path / name for name in ("good.ckpt", "old.pth", "new.ckpt"))
    torch.save({"a": torch.zeros(1)}, good)
    torch.save([nested], old, _use_new_zipfile_serialization=False)
    old.write_bytes(old.read_bytes() + good.read_bytes())
    torch.save([nested], new)
    with zipfile.ZipFile(new) as archive:
        entry = archive.getinfo("new/data.pkl")
    checksum = entry.CRC.to_bytes(4, "little")
    data = new.read_bytes()
    for path, changed in (
        (tmp_path / "checksum.ckpt", data.replace(checksum, b"1234")),
        (tmp_path / "name.ckpt", data.replace(b"new/data.pkl", b"new/data.pkk", 1)),
        (old, old.read_bytes()),
    ):
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="its tuples are nested too deeply"):
            read_checkpoint(path)


def test_a_damaged_directory_of_an_archive_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path := tmp_path / "a.ckpt")
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\6\6")  # torch writes the large form, which goes first
    data[end + 40 : end + 48] = (2**28).to_bytes(8, "little")  # the directory's length
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"a\.ckpt: not a complete checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.png: not a complete checkpoint: is it another file\?$"),
        (b"hello", r"a\.png: not a complete checkpoint: is it another file\?$"),
        (b"\x89PNG\r\n\x1a\n", r"a\.png: not a checkpoint, or it contains.*\(no pickle\)$"),
    ],
)
def test_a_file_of_another_kind_is_said_to_be_one(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "a.png")


def test_tensors_behind_a_pickle_are_not_taken_for_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is no archive; these would be millions of operations."""
    torch.save({"a": torch.full((1000,), ord("N"), dtype=torch.uint8)}, path := tmp_path / "a.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    ends = []
    genops = pickletools.genops

    def counted(content: Any) -> Any:
        yield from genops(content)
        ends.append(content.tell())

    monkeypatch.setattr(pickletools, "genops", counted)
    assert list(read_checkpoint(path).state) == ["a"]
    assert len(ends) == 5 and path.stat().st_size - ends[-1] >= 1000
