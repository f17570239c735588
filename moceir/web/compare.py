"""A page that compares two images with a slider, in one self-contained file."""

from __future__ import annotations

import base64
import html
from io import BytesIO
from pathlib import Path
from string import Template

from moceir import __version__
from moceir.errors import ConfigError, PictureError
from moceir.files import check_free, make_folder, whole_file
from moceir.pictures.codec import Picture, decode, encode
from moceir.web import pages

WEB_FORMATS = {
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with further pictures after it
    "PNG": "image/png",
    "WEBP": "image/webp",
}
"""Pillow's names of the formats that every browser shows, with their media types."""


def comparison(before: Path, after: Path) -> str:
    """The HTML page that compares two pictures.

    The bytes of PNG, JPEG, WebP, GIF and AVIF files are embedded as they are; other formats, and
    the first frame of moving pictures, as PNG with the same pixels.

    Raises:
        PictureError: a file that cannot be read as a picture, or the two differ in size.
        OSError: a file that cannot be read.
    """
    paths = (before, after)
    files = [path.read_bytes() for path in paths]
    pictures = [decode(data, str(path)) for data, path in zip(files, paths, strict=True)]
    sizes = [f"{p.pixels.shape[1]} x {p.pixels.shape[0]}" for p in pictures]
    if sizes[0] != sizes[1]:
        raise PictureError(
            f"{before} is {sizes[0]} and {after} is {sizes[1]} pixels: "
            "only images of one size can be compared"
        )
    values = {
        "version": __version__,
        "style": pages.read("page.css"),
        "script": pages.read("slider.js"),
    }
    for i, role in enumerate(("before", "after")):
        values[f"{role}_name"] = _text(paths[i].name)
        values[f"{role}_details"] = f"{sizes[i]}, {_bytes(len(files[i]))}"
        values[f"{role}_data"] = _data_uri(files[i], pictures[i])
    return Template(pages.read("compare.html")).substitute(values)


def write_comparison(
    before: Path | str, after: Path | str, target: Path | str, *, overwrite: bool = False
) -> None:
    """Write an HTML page that compares two images with a slider, in one self-contained file.

    Args:
        before, after: image files of the same size.
        target: the page, ``.html`` or ``.htm``.
        overwrite: replace an existing file.

    Raises:
        ConfigError: the page has another suffix.
        PictureError: a file that cannot be read as an image, or the two differ in size.
        FileExistsError: the page exists.
        OSError: a file cannot be read, or the page cannot be written.
    """
    before, after, target = Path(before), Path(after), Path(target)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{target}: the name must end in .html")
    check_free(target, overwrite)
    page = comparison(before, after)
    make_folder(target.parent)
    with whole_file(target, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data_uri(data: bytes, picture: Picture) -> str:
    """The file ``data``, which was decoded to ``picture``, as a data URI."""
    media_type = WEB_FORMATS.get(picture.format)
    moves = picture.frames > 1 and picture.format != "MPO"
    if media_type is None or moves:
        file = BytesIO()
        encode(picture, file, "PNG")
        media_type, data = "image/png", file.getvalue()
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _text(name: str) -> str:
    """A file name for HTML; bytes that are not UTF-8 show as a question mark."""
    return html.escape(name.encode("utf-8", "replace").decode())


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
