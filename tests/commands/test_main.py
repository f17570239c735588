"""The command line as its users meet it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from moceir import __version__
from moceir.commands.main import main
from moceir.model import MoCEIR, load_weights, save_weights
from moceir.pictures import codec
from moceir.pictures.codec import Picture
from moceir.pictures.metadata import Metadata
from tests.published_weights import TINY


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(MoCEIR(TINY), path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def picture(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_restore_one_file(tmp_path: Path, weights: Path) -> None:
    source, target = picture(tmp_path / "in.png"), tmp_path / "new" / "out.png"
    result = run("restore", source, "-o", target, "-m", weights, "--device", "cpu")
    assert result.exit_code == 0, result.output
    with Image.open(target) as image:
        assert image.size == (40, 30)
    assert "device cpu, " in result.output
    assert "40 x 30, experts" in result.output


def test_restore_the_bundled_way(tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    assert run("restore", source, "-o", tmp_path / "out.png").exit_code == 0
    assert (tmp_path / "out.png").is_file()


def test_restore_a_folder_keeps_its_tree(tmp_path: Path, weights: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "sub" / "b.jpg")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "-m", weights)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "a.png").is_file()
    assert (tmp_path / "out" / "sub" / "b.jpg").is_file()


def test_one_bad_picture_does_not_stop_the_rest(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    good = picture(tmp_path / "good.png")
    result = run("restore", tmp_path / "bad.png", good, "-o", tmp_path / "out", "-m", weights)
    assert result.exit_code == 1
    assert "not restored" in result.output and "bad.png: not an image" in result.output
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, weights: Path) -> None:
    source, target = picture(tmp_path / "in.png"), tmp_path / "out.png"
    target.write_text("precious")
    for words in (
        ("restore", source, "-o", target, "-m", weights),
        ("degrade", source, "-o", target, "--kind", "noise"),
        ("convert", weights, tmp_path / "out.png"),
    ):
        result = run(*words)
        assert result.exit_code == 1, words
        assert "out.png" in result.output
        assert target.read_text() == "precious"
    assert run("restore", source, "-o", target, "-m", weights, "--overwrite").exit_code == 0
    assert run("degrade", source, "-o", target, "--kind", "rain", "--overwrite").exit_code == 0


def test_two_results_of_one_name_are_refused(tmp_path: Path, weights: Path) -> None:
    one, two = picture(tmp_path / "1" / "a.png"), picture(tmp_path / "2" / "a.png")
    result = run("restore", one, two, "-o", tmp_path / "out", "-m", weights)
    assert result.exit_code == 1
    assert "would both become" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("restore", "none.png", "-o", "out.png"), "none.png"),
        (("restore", "IN", "-o", "out.xyz"), "'.xyz'"),
        (("restore", "IN", "-o", "out.png", "-m", "nothing"), "no such weights"),
        (("restore", "IN", "-o", "out.png", "--device", "cuda:77"), "cuda:77"),
        (("degrade", "IN", "-o", "out.png", "--kind", "rian"), "rain"),
        (("degrade", "IN", "-o", "out.png", "--kind", "noise:sigma=900"), "sigma"),
        (("degrade", "none.png", "-o", "out.png", "--kind", "rain"), "none.png"),
        (("convert", "none.ckpt", "out.safetensors"), "no such weights"),
        (("convert", "IN", "out.safetensors"), "in.png"),
        (("convert", "IN", "out.zip"), "the name must end in .safetensors"),
        (("train", "--data.train", "nowhere"), "nowhere: no such folder"),
        (("train", "--preset", "compakt"), "unknown preset"),
        (("train", "--accelerator", "tpu"), "accelerator is 'tpu': choose auto, cpu, cuda"),
        (("restore", "IN", "-o", "out", "--device", "meta"), "device 'meta' cannot be used"),
        (("restore", "IN", "-o", "out", "--threads", 10**6), "give 1 to 1024 (--threads)"),
        (("precompile", "--arch", "1.0"), "give a compute capability from 8.0 on"),
        (("cost", "--size", "999999999x999999999"), "give a smaller size"),
        (("precompile", "-m", "compact", "--preset", "compact"), "choose one"),
        (("routes", "IN", "--benchmarks", "sots", "-o", "a.png"), "give one of these"),
        (("evaluate", "--pair", "IN", "IN", "-o", "IN"), "in.png: a file, not a folder"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = picture(tmp_path / "in.png")
    result = run(*(source if word == "IN" else word for word in words))
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png"]


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "", "IN", "-o", "a.html"),
        ("convert", "", "a.ckpt"),
        ("cost", "-m", ""),
        ("evaluate", "-m", "", "--pair", "IN", "IN", "-o", "out"),
        ("precompile", "-m", ""),
        ("restore", "IN", "-o", "out.png", "-m", ""),
    ],
)
def test_an_empty_name_is_a_mistake(tmp_path: Path, words: tuple[str, ...]) -> None:
    source = picture(tmp_path / "in.png")
    result = run(*(source if word == "IN" else word for word in words))
    assert result.exit_code == 2
    assert "it is empty: give a name" in result.output


def test_options_that_exclude_each_other_are_named_as_given(tmp_path: Path) -> None:
    result = run("restore", tmp_path, "-o", "out", "--skip-existing", "--overwrite")
    assert result.exit_code == 2
    assert "--skip-existing and --overwrite: choose one" in result.output


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    result = run("--debug", "restore", source, "-o", tmp_path / "o.png", "-m", "nothing")
    assert type(result.exception).__name__ == "WeightsError"


def test_degrade_is_reproducible(tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        target = tmp_path / f"{name}.png"
        result = run("degrade", source, "-o", target, "--kind", "rain,haze", "--seed", seed)
        assert result.exit_code == 0, result.output
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_convert_there_and_back(tmp_path: Path, weights: Path) -> None:
    for target, source in (("a.ckpt", weights), ("b.pth", "a.ckpt"), ("c.safetensors", "b.pth")):
        result = run("convert", tmp_path / source, tmp_path / target)
        assert result.exit_code == 0, result.output
    again = load_weights(tmp_path / "c.safetensors")
    for x, y in zip(again.parameters(), load_weights(weights).parameters(), strict=True):
        assert torch.equal(x, y)


def test_bundled_weights_are_converted(tmp_path: Path) -> None:
    """To a folder that is not there, as the other commands make one."""
    result = run("convert", "compact", tmp_path / "new" / "a.safetensors")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "a.safetensors").is_file()


def test_convert_names_what_does_not_fit_the_preset(tmp_path: Path, weights: Path) -> None:
    assert run("convert", weights, tmp_path / "a.ckpt").exit_code == 0
    result = run("convert", tmp_path / "a.ckpt", tmp_path / "b.safetensors", "--preset", "moce_ir")
    assert result.exit_code == 1
    assert "a.ckpt" in result.output and "tensors do not fit the network" in result.output


def test_an_exported_network_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("export", "-", "--format", "pt2")
    assert result.exit_code == 2 and "name one in place of -" in result.output
    assert not any(tmp_path.iterdir())


def test_info_names_devices_backends_and_weights() -> None:
    result = run("info")
    assert result.exit_code == 0, result.output
    for part in (__version__, "cpu", "compact", "fft_attention", "reference"):
        assert part in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("restore", "--help"),
        ("restore", "in", "-o", "out", "--dry-run"),
    ],
)
def test_what_restores_nothing_does_not_load_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    script = (
        "import sys; from moceir.commands.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print({'torch', 'numpy', 'PIL', 'moce_kernels'} & sys.modules.keys())"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_degrade_keeps_brightness_and_metadata(tmp_path: Path, dtype: type) -> None:
    """16-bit grey is not white, nor is floating point grey black."""
    levels = np.random.default_rng(0).integers(50, 150, (40, 60, 1))
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    grey = Picture((levels / 255 * white).astype(dtype), "", Metadata(dpi=(300, 300), icc=b"grey"))
    codec.write(grey, tmp_path / "a.tif")
    (tmp_path / "a.tif").chmod(0o600)
    result = run("degrade", tmp_path / "a.tif", "-o", tmp_path / "b.png", "--kind", "noise:sigma=5")
    assert result.exit_code == 0, result.output
    degraded = codec.read(tmp_path / "b.png")
    assert abs(degraded.pixels.mean() - levels.mean()) < 2
    assert [round(value) for value in degraded.metadata.dpi or ()] == [300, 300]
    assert degraded.metadata.icc == b""  # it is one for grey
    assert (tmp_path / "b.png").stat().st_mode & 0o777 == 0o600


def test_degrade_says_what_it_leaves_out(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (10, 20, 30, 40)).save(tmp_path / "a.png")
    result = run("degrade", tmp_path / "a.png", "-o", tmp_path / "b.jpg", "--kind", "noise")
    assert result.exit_code == 0
    assert "seed 0; its transparency was dropped" in result.output
    Image.new("I;16", (9, 9), 40_000).save(tmp_path / "deep.png")
    result = run("degrade", tmp_path / "deep.png", "-o", tmp_path / "c.png", "--kind", "noise")
    assert "seed 0; greyscale became RGB; rounded to 8 bits" in result.output


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    result = run("degrade", tmp_path / "a.png", "-o", tmp_path / "b.png", "--kind", "noise")
    assert result.exit_code == 1
    assert result.output.endswith("a.png: not a file: copy what it holds to one first\n")


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.ckpt")
    result = run(
        "convert", tmp_path / "w.ckpt", tmp_path / "out.safetensors", "--preset", "compact"
    )
    assert result.exit_code == 1 and "w.ckpt: not a file" in result.output
