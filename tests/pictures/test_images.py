"""Folders of pictures, and patches as a function of seed and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.errors import PictureError
from moceir.pictures import codec
from moceir.pictures.codec import Picture
from moceir.pictures.images import find_pictures, open_rgb, rgb_pixels, save_image
from moceir.pictures.pixels import to_image, to_tensor
from tests.pictures.test_codec import ICC, exif


def picture(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_pictures_are_found_below_a_folder(tmp_path: Path) -> None:
    expected = [picture(tmp_path / "a" / "1.PNG"), picture(tmp_path / "b.jpg")]
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert find_pictures(tmp_path) == expected


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no images in it"):
        find_pictures(tmp_path)
    with pytest.raises(PictureError, match=r"nowhere: no such folder"):
        find_pictures(tmp_path / "nowhere")


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    link = tmp_path / "gone.png"
    link.symlink_to("nowhere.png")
    assert find_pictures(tmp_path) == [link]
    with pytest.raises(PictureError, match=r"gone\.png: No such file"):
        rgb_pixels(link)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"bad\.png"):
        rgb_pixels(path)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    path = picture(tmp_path / "cut.png")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PictureError, match=r"cut\.png"):
        rgb_pixels(path)


def test_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(path, exif=exif)
    assert open_rgb(path).size == (30, 40)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_pictures_keep_their_brightness(
    tmp_path: Path, suffix: str, channels: int, dtype: str
) -> None:
    """16-bit grey is not white, nor is floating point grey black."""
    values = np.random.default_rng(0).integers(0, 256, (9, 7, channels))
    pixels = (values / 255).astype(dtype) if dtype == "float32" else (values * 257).astype(dtype)
    path = tmp_path / f"a{suffix}"
    codec.write(Picture(pixels, ""), path)
    colours = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, axis=2)
    assert np.array_equal(rgb_pixels(path), colours)
    assert np.array_equal(np.asarray(open_rgb(path)), colours)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".jxl", ".heic"])
def test_the_size_is_that_of_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    codec.write(Picture(np.zeros((9, 70, 3), np.uint8), ""), path)
    assert codec.size_of(path) == (70, 9)
    if suffix in (".png", ".jpg"):  # without the pixels
        path.write_bytes(path.read_bytes()[:-8])
        assert codec.size_of(path) == (70, 9)
    codec.write(Picture(np.zeros((9, 70, 3), np.uint16), ""), tmp_path / "deep.tif")
    assert codec.size_of(tmp_path / "deep.tif") == (70, 9)


@pytest.mark.parametrize("content", [b"", b"text", b"II*\0", b"\x89PNG\r\n\x1a\n"])
def test_a_file_without_a_size_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"bad\.png"):
        codec.size_of(tmp_path / "bad.png")


def test_a_saved_image_keeps_what_it_carries(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    image.info.update(icc_profile=ICC, dpi=(300, 300), exif=exif(1))
    save_image(image, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.info["icc_profile"] == ICC and saved.info["dpi"] == (300, 300)
        assert saved.getexif()[0x010F] == "Maker"


def test_tensors_and_images_are_the_same_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.shape == (3, 5, 7)
    assert np.array_equal(np.asarray(to_image(tensor)), pixels)
    beyond = to_image(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1))
    assert np.asarray(beyond).tolist() == [[[0, 128, 255]]]


def test_saving_refuses_what_no_format_holds(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"'\.xyz'"):
        save_image(Image.new("RGB", (2, 2)), tmp_path / "a.xyz")
    with pytest.raises(PictureError, match=r"a\.jpg.*RGBA"):
        save_image(Image.new("RGBA", (2, 2)), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
