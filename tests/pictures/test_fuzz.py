"""Whatever a file holds, decoding it gives a picture or says why not."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moceir.errors import PictureError
from moceir.pictures import codec
from moceir.pictures.codec import Picture
from tests.pictures.test_codec import noise, with_metadata, written

DEEP = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
SEEDS = {
    **{
        name: with_metadata(name) for name in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL")
    },
    "16-bit PNG": written(Picture(DEEP, ""), "PNG")[0],
    "16-bit TIFF": written(Picture(DEEP, ""), "TIFF")[0],
    "float TIFF": written(Picture((DEEP / 65535).astype(np.float32), ""), "TIFF")[0],
    "GIF": written(Picture(np.asarray(noise()), ""), "GIF")[0],
    "BMP": written(Picture(np.asarray(noise()), ""), "BMP")[0],
}


def mutated(data: bytes, changes: list[tuple[float, int]], cut: float, extra: bytes) -> bytes:
    """Some bytes replaced (more of them near the beginning), something cut out and put in."""
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place**3 * len(damaged))] = value
    at = int(cut * len(damaged))
    return bytes(damaged[:at] + extra + damaged[at + len(extra) // 2 :])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")
@given(
    changes=st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255),
        ),
        max_size=8,
    ),
    cut=st.floats(0, 1),
    extra=st.binary(max_size=6),
)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_files(
    seed: str, changes: list[tuple[float, int]], cut: float, extra: bytes
) -> None:
    check(mutated(SEEDS[seed], changes, cut, extra))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")
def test_files_cut_anywhere(seed: str) -> None:
    data = SEEDS[seed]
    for length in range(0, len(data), max(1, len(data) // 60)):
        check(data[:length])


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes(data: bytes) -> None:
    check(data)


def check(data: bytes) -> None:
    """Decodes to a picture that can be written, or is refused in one line that names it."""
    try:
        picture = codec.decode(data, "the file")
    except PictureError as error:
        assert str(error).startswith("the file: ")
        return
    height, width, channels = picture.pixels.shape
    assert height >= 1 and width >= 1 and 1 <= channels <= 4
    assert picture.pixels.dtype in (np.uint8, np.uint16, np.float32)
    for file_format in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
        try:
            codec.encode(picture, BytesIO(), file_format)
        except PictureError as error:
            assert file_format in str(error)
