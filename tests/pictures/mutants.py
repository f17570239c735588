"""Damages pictures of every format, and sees that each is read or refused as it should be.

    python -m tests.pictures.mutants --number 3000 --seed 1

Each damaged file is decoded, and written again if that gives a picture, in processes of their own.
Faults are: an exception that is no PictureError, a process that dies, more than 5 seconds of
processor time, more than 1.5 GB of memory. Files with faults are kept in the folder of ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

SECONDS, BYTES = 5.0, 1_500_000_000
BATCH = 250
LOST = 120
"""Seconds after which a process that says nothing is taken for hung."""


def seeds() -> dict[str, bytes]:
    """A file of every format, with all that it holds."""
    import imagecodecs
    import tifffile

    from moceir.pictures import codec, colour, stale
    from moceir.pictures.codec import Picture
    from moceir.pictures.metadata import Metadata
    from tests.pictures.test_codec import ICC, encoded, exif
    from tests.pictures.test_colour import avif

    random = np.random.default_rng(0)
    wide = random.integers(0, 65536, (40, 33, 4), dtype=np.uint16)
    smooth = np.linspace(0, 65535, 40 * 33).reshape(40, 33, 1).astype(np.uint16)
    wide = wide // 8 + smooth - smooth // 8
    narrow = (wide >> 8).astype(np.uint8)
    metadata = Metadata(
        exif=exif(6)[6:],
        xmp=b'<x:xmpmeta><a tiff:Orientation="6" hdrgm:Version="1"/></x:xmpmeta>',
        icc=ICC,
        dpi=(300, 300),
        photoshop=stale.resource(stale.CAPTIONS, b"caption!") + stale.resource(1036, b"old"),
        comments=(b"by hand",),
        png_text=[(b"tEXt", b"Title\0a"), (b"zTXt", b"More\0\0" + b"x\x9cKL\x04\0\0b\0b")],
    )

    def written(pixels: np.ndarray, file_format: str, **more: object) -> bytes:
        file = BytesIO()
        picture = Picture(pixels, "", metadata, bits=pixels.itemsize * 8, **more)
        codec.encode(picture, file, file_format)
        return file.getvalue()

    found = {}
    for file_format in (
        *codec.encoders.WRITTEN,
        "ICO",
        "ICNS",
        "SPIDER",
        "XBM",
        "MSP",
        "BLP",
    ):
        opaque = file_format in (*codec.encoders.OPAQUE, "GIF")
        pixels = narrow[..., :3] if opaque else narrow
        if file_format in codec.encoders.WRITTEN:
            found[file_format] = written(pixels, file_format)
        else:
            mode = {"BLP": "P", "XBM": "1", "MSP": "1", "SPIDER": "F"}.get(file_format)
            image = codec.image_of(narrow[..., :3])
            found[file_format] = encoded(image.convert(mode) if mode else image, file_format)
    for file_format in ("PNG", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM"):
        pixels = wide[..., :3] if file_format == "PPM" else wide
        found[f"deep {file_format}"] = written(pixels, file_format)
    for file_format in ("WEBP", "AVIF", "HEIF", "JXL"):
        found[f"lossless {file_format}"] = written(narrow, file_format, lossless=True)
    found["deep JXL"] = imagecodecs.jpegxl_encode(wide, lossless=True, usecontainer=True)
    found["float JXL"] = imagecodecs.jpegxl_encode((wide[..., :3] / 65535).astype(np.float32))
    found["PQ AVIF"] = avif((9, 16), 10)
    found["float TIFF"] = written((wide / 65535).astype(np.float32), "TIFF")
    for name, options in {
        "tiled TIFF": {"tile": (16, 16), "compression": "lzw"},
        "big TIFF": {"bigtiff": True, "byteorder": ">"},
        "JPEG TIFF": {"compression": "jpeg"},
        "planes TIFF": {"planarconfig": "separate"},
    }.items():
        file = BytesIO()
        pixels = narrow[..., :3]
        held = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels
        tifffile.imwrite(file, held, photometric="rgb", **options)
        found[name] = file.getvalue()
    file = BytesIO()
    tifffile.imwrite(file, wide, photometric="separated")
    found["CMYK TIFF"] = file.getvalue()
    image = codec.image_of(narrow[..., :3])
    found["CMYK JPEG"] = encoded(image.convert("CMYK"), "JPEG")
    found["progressive JPEG"] = encoded(image, "JPEG", progressive=True, exif=exif(3))
    found["palette PNG"] = encoded(image.convert("P"), "PNG", transparency=5)
    found["grey PNG"] = encoded(image.convert("I;16"), "PNG", icc_profile=colour.profile((12, 13)))
    for name in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"):
        found[f"frames {name}"] = encoded(image, name, save_all=True, append_images=[image, image])
    return found


def mutant(seed: int, number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The name of its format and its bytes, a function of the two numbers."""
    random = np.random.default_rng((seed, number))
    name = list(files)[number % len(files)]
    data = bytearray(files[name])
    # Damage is denser near the beginning, where files say what they are.
    place = int(random.random() ** random.choice([1, 3]) * len(data))
    kind = random.integers(5)
    if kind == 0:
        for _ in range(random.integers(1, 9)):
            at = int(random.random() ** random.choice([1, 3]) * len(data))
            data[at] ^= 1 << random.integers(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:  # what may be a length, a count or a place
        size = int(random.choice([1, 2, 4, 8]))
        values = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, len(data)]
        value = int(values[random.integers(len(values))]) % 2 ** (8 * size)
        order = "big" if random.random() < 0.5 else "little"
        data[place : place + size] = value.to_bytes(size, order)
    elif kind == 3:  # something twice, or not at all
        other = int(random.random() * len(data))
        part = data[min(place, other) : max(place, other)][:4096]
        data[place:place] = part if random.random() < 0.5 else b""
        del data[place : place + int(random.integers(0, 64))]
    else:
        part = random.bytes(int(random.integers(1, 64)))
        data[place : place + len(part)] = part
    return name, bytes(data)


def tried(data: bytes) -> str:
    """What becomes of a file: read, written or refused.

    Raises:
        Exception: a fault.
    """
    from moceir.errors import PictureError
    from moceir.pictures import codec

    try:
        picture = codec.decode(data, "the file")
    except PictureError as error:
        assert str(error).startswith("the file: ") and "\n" not in str(error), str(error)
        return "refused"
    height, width, channels = picture.pixels.shape
    assert height and width and channels in (1, 2, 3, 4)
    assert picture.pixels.dtype in (np.uint8, np.uint16, np.float32)
    own = picture.format if picture.format in codec.encoders.WRITTEN else "PNG"
    for file_format in dict.fromkeys((own, "PNG", "JPEG", "TIFF")):
        file = BytesIO()
        try:
            codec.encode(picture, file, file_format)
        except PictureError as error:
            assert file_format in str(error) or "float" in str(error), str(error)
            continue
        if file_format == "PNG":  # what we write we can read
            again = codec.decode(file.getvalue(), "the result")
            assert again.pixels.shape == picture.pixels.shape
    return "read"


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(seed: int, numbers: list[int]) -> None:
    """Tries files one by one, with a line of JSON before and after each."""
    warnings.simplefilter("ignore")
    files = seeds()
    for number in numbers:
        print(json.dumps({"begun": number}), flush=True)
        name, data = mutant(seed, number, files)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begun, fault = time.process_time(), ""
        try:
            outcome = tried(data)
        except BaseException as error:
            outcome, fault = "fault", f"{type(error).__name__}: {error}"
        seconds, peak = time.process_time() - begun, _peak()
        if seconds > SECONDS:
            fault = fault or f"{seconds:.1f} s"
        if peak > BYTES:
            fault = fault or f"{peak / 1e9:.1f} GB"
        line = {"number": number, "name": name, "outcome": outcome, "fault": fault}
        print(json.dumps(line | {"seconds": seconds, "peak": peak}), flush=True)


@dataclass
class Report:
    """What became of all files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    seconds: float = 0
    peak: int = 0

    def take(self, line: dict) -> None:
        self.outcomes[line["outcome"]] += 1
        self.seconds = max(self.seconds, line["seconds"])
        self.peak = max(self.peak, line["peak"])
        if line["fault"]:
            self.faults[line["number"]] = f"{line['name']}: {line['fault']}"


def run(seed: int, numbers: list[int]) -> Report:
    """Tries files, a batch a process; after one that dies with the next."""
    report, left = Report(), list(numbers)
    while left:
        batch, current = left[:BATCH], None
        words = [
            sys.executable,
            "-m",
            "tests.pictures.mutants",
            "--child",
            json.dumps([seed, batch]),
        ]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(words, bufsize=0, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            assert process.stdout is not None
            while True:
                ready, _, _ = select.select([process.stdout], [], [], LOST)
                text = process.stdout.readline() if ready else b""
                if not text:
                    process.kill()
                    break
                line = json.loads(text)
                if "begun" in line:
                    current = line["begun"]
                else:
                    report.take(line)
                    left.remove(line["number"])
                    current = None
            code = process.wait()
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        if current is not None:
            what = f"no answer for {LOST} s" if ready == [] else f"the process died ({code}) {last}"
            report.outcomes["fault"] += 1
            report.faults[current] = what
            left.remove(current)
        elif left[:BATCH] == batch:
            raise RuntimeError(f"the process for {batch[:3]}... did nothing ({code}): {last}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for files with faults")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        child(*json.loads(words.child))
        return 0
    begun = time.perf_counter()
    report = run(words.seed, list(range(words.number)))
    print(
        f"{words.number} files, seed {words.seed}: {report.outcomes['read']} read, "
        f"{report.outcomes['refused']} refused, {len(report.faults)} faults; at most "
        f"{report.seconds:.2f} s of processor time and {report.peak / 1e6:.0f} MB; "
        f"{time.perf_counter() - begun:.0f} s"
    )
    files = seeds() if words.keep else {}
    for number, fault in sorted(report.faults.items()):
        print(f"  {number}: {fault}")
        if words.keep:
            words.keep.mkdir(parents=True, exist_ok=True)
            (words.keep / f"{words.seed}-{number}").write_bytes(
                mutant(words.seed, number, files)[1]
            )
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
