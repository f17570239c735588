"""Weights that were made to do harm, or are merely broken."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.files import Made, sparse_file, write


def _safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def _entry(
    dtype: str = "F32", shape: Sequence[int] = (1,), offsets: Sequence[int] = (0, 4)
) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class Bytes:
    """What is made of good bytes: of a safetensors file, and of a checkpoint."""

    def __init__(self, seed: int) -> None:
        import torch
        from safetensors.torch import save

        from moceir.config import PRESETS
        from moceir.model import load_model

        self.random = random.Random(seed)
        model = load_model("compact")
        self.tensors = {k: t.contiguous() for k, t in model.state_dict().items()}
        self.about = {"moceir.config": json.dumps(PRESETS["compact"].to_dict())}
        self.ours = save(self.tensors, self.about)
        file = io.BytesIO()
        torch.save({"state_dict": self.tensors}, file)
        self.checkpoint = file.getvalue()

    def header(self) -> dict:
        (size,) = struct.unpack("<Q", self.ours[:8])
        return json.loads(self.ours[8 : 8 + size])

    def with_header(self, change: Callable[[dict], object]) -> bytes:
        (size,) = struct.unpack("<Q", self.ours[:8])
        header = self.header()
        change(header)
        return _safetensors(json.dumps(header).encode(), self.ours[8 + size :])

    def with_tensor(self, change: Callable[[Any], Any]) -> bytes:
        """Our file with one tensor, drawn at random, that is another."""
        from safetensors.torch import save

        name = self.random.choice([*self.tensors])
        return save({**self.tensors, name: change(self.tensors[name]).contiguous()}, self.about)

    def with_config(self, **values: object) -> bytes:
        from safetensors.torch import save

        config = {**json.loads(self.about["moceir.config"]), **values}
        return save(self.tensors, {"moceir.config": json.dumps(config)})

    def flipped(self, data: bytes, end: int) -> bytes:
        changed = bytearray(data)
        for _ in range(20):
            changed[self.random.randrange(end)] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def cut(self, data: bytes) -> bytes:
        return data[: self.random.randrange(len(data))]


def _checkpoint(content: object) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def _archive(pickled: bytes) -> bytes:
    """As torch.save writes one, around any pickle."""
    return _zip({"a/data.pkl": pickled, "a/byteorder": b"little", "a/version": b"3\n"})


class _Runs:
    """Runs a program when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _codes() -> dict[str, object]:
    here = "import pathlib; pathlib.Path('ran').touch()"
    return {
        "system": _Runs(os.system, "touch ran"),
        "exec": _Runs(exec, here),
        "eval": _Runs(eval, here),
        "open": _Runs(open, "ran", "w"),
        "getattr": {"state_dict": _Runs(getattr, "a", "upper")},
        "popen": [_Runs(os.popen, "touch ran")],
    }


def _nested(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def _laughs() -> bytes:
    """A list of ten lists of ten lists ..., each of them once in the file."""
    out = b"\x80\x02]q\x00"
    for level in range(1, 12):
        refs = b"".join(b"h" + bytes([level - 1]) for _ in range(10))
        out += b"](" + refs + b"eq" + bytes([level])
    return out + b"."


def _key(levels: int) -> bytes:
    """A dictionary whose key is a tuple of one tuple twice, which is likewise, and so on."""
    out = b"\x80\x02})q\x000"
    for level in range(1, levels):
        out += 2 * (b"h" + bytes([level - 1])) + b"\x86q" + bytes([level]) + b"0"
    return out + b"h" + bytes([levels - 1]) + b"K\x01s."


def _overlapping() -> bytes:
    """Many entries of a directory that are one entry of the archive."""
    data = bytearray(_zip({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(100_000)}))
    directory = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = bytes(data[directory:end])
    second = entries[entries.index(b"PK\x01\x02", 4) :]
    more = entries + second * 1000
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", 1002, 1002)
    tail[12:16] = struct.pack("<I", len(more))
    return bytes(data[:directory]) + more + bytes(tail)


def _declared(size: int) -> bytes:
    """An archive whose directory says that its entry is larger."""
    data = bytearray(_zip({"a/data.pkl": b"\x80\x02}."}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 20 : directory + 28] = struct.pack("<II", size, size)
    return bytes(data)


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(_Runs(os.system, "touch ran"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def weights(folder: Path, seed: int = 0) -> list[Path]:
    """Writes hostile weights into an empty folder; at least a hundred."""
    good = Bytes(seed)
    made = _damaged(good) | _headers() | _contents(good) | _pickles() | _archives() | _places()
    return write(folder, made)


def _damaged(good: Bytes) -> Made:
    made: Made = {}
    for i in range(8):
        made[f"cut{i}.safetensors"] = good.cut(good.ours)
        made[f"cut{i}.ckpt"] = good.cut(good.checkpoint)
    for i in range(4):
        made[f"flipped{i}.safetensors"] = good.flipped(good.ours, 2000)
        made[f"flipped_end{i}.ckpt"] = good.flipped(good.checkpoint[::-1], 2000)[::-1]
        for suffix in ("safetensors", "ckpt", "pth"):
            made[f"random{i}.{suffix}"] = good.random.randbytes(10 ** (i + 1))
    for name, size in {"2^63": 2**63, "2^64-1": 2**64 - 1, "2^40": 2**40, "100M": 10**8}.items():
        made[f"header_of_{name}.safetensors"] = _safetensors(b"{}", size=size)
    return made


def _headers() -> Made:
    made: Made = {}
    headers = {
        "no_json": b"text",
        "list": b"[]",
        "number": b"3",
        "deep": b"[" * 100_000,
        "deep_name": b'{"a":' * 50_000,
        "twice": b'{"a":' + json.dumps(_entry()).encode() + b',"a":3}',
        "no_utf8": b'{"\xff\xfe": 3}',
        "empty": b"",
        "metadata": b'{"__metadata__": {"moceir.config": 3}}',
        "long_metadata": json.dumps({"__metadata__": {"a": "x" * 30_000_000}}).encode(),
        "long_name": json.dumps({"n" * 5_000_000: _entry(shape=[0], offsets=[0, 0])}).encode(),
        "many": json.dumps(
            {f"t{i}": _entry(shape=[0], offsets=[0, 0]) for i in range(100_000)}
        ).encode(),
    }
    for name, header in headers.items():
        made[f"header_{name}.safetensors"] = _safetensors(header, bytes(4))
    entries = {
        "dtype": _entry("X99"),
        "shape": _entry(shape=[2**40]),
        "shapes": _entry(shape=[2**33, 2**33]),
        "negative": _entry(shape=[-1]),
        "behind": _entry(offsets=[100, 104]),
        "backwards": _entry(offsets=[4, 0]),
        "beyond": _entry(offsets=[0, 2**62]),
        "text": _entry(offsets=["0", "4"]),  # type: ignore[list-item]
        "fraction": _entry(shape=[1.5]),  # type: ignore[list-item]
    }
    for name, entry in entries.items():
        made[f"entry_{name}.safetensors"] = _safetensors(
            json.dumps({"a": entry}).encode(), bytes(4)
        )
    return made


def _contents(good: Bytes) -> Made:
    """Whole files with tensors or configurations that are none of a network."""
    import torch

    made: Made = {}
    changes: dict[str, Callable[[Any], Any]] = {
        "nan": lambda t: t * torch.nan,
        "one_nan": lambda t: t.clone().index_fill_(0, torch.tensor([0]), torch.nan),
        "infinite": lambda t: t.clone().index_fill_(0, torch.tensor([0]), -torch.inf),
        "int": lambda t: t.int(),
        "bool": lambda t: t.bool(),
        "complex": lambda t: t.to(torch.complex64),
        "shape": lambda t: t[None],
        "rows": lambda t: torch.cat([t, t]),
        "none": lambda t: t[:0],
        "scalar": lambda t: torch.tensor(1.0),
        "huge": lambda t: t.double() * 1e300 + 1e300,
    }
    for name, change in changes.items():
        made[f"tensor_{name}.safetensors"] = good.with_tensor(change)
    for name, values in {
        "dim": {"dim": 10**30},
        "dims": {"dim": [1, 2]},
        "nan": {"ffn_expansion": float("nan")},
        "deep": {"num_blocks": [32] * 6, "num_dec_blocks": [32] * 5, "heads": [1] * 6},
        "blocks": {"num_blocks": [10**9, 1, 1, 1]},
        "levels": {"num_blocks": [1] * 10_000},
        "experts": {"num_experts": 10**6},
        "fact": {"rank_schedule": "fact", "rank": 10**6},
        "exp": {"rank_schedule": "exp", "rank": 16384},
        "text": {"router": "x" * 10**6},
        "object": {"heads": {"a": 1}},
        "name": {"x" * 10**6: 1},
        "wide": {"dim": 512},
    }.items():
        made[f"config_{name}.safetensors"] = good.with_config(**values)
    return made


def _pickles() -> Made:
    made: Made = {}
    for name, code in _codes().items():
        for protocol in (0, 2):
            made[f"code_{name}{protocol}.pth"] = pickle.dumps(code, protocol)
            made[f"code_{name}{protocol}.ckpt"] = _archive(pickle.dumps(code, protocol))
    for name, pickled in {
        "nested": _nested(100_000),
        "laughs": _laughs(),
        "key": _key(100),
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "memo": b"\x80\x02j\xff\xff\xff\xff.",
        "put": b"\x80\x02}r\xff\xff\xff\x7f.",
        "empty": b"",
        "stop": b".",
        "number": pickle.dumps(3),
        "tensorless": pickle.dumps({"state_dict": {"a": [1, 2]}}, 2),
        "keys": pickle.dumps({i: "x" * 1000 for i in range(10_000)}, 2),
    }.items():
        made[f"pickle_{name}.ckpt"] = _archive(pickled)
        made[f"pickle_{name}.pth"] = pickled
    return made


def _archives() -> Made:
    import torch

    zeros = {"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(2**26)}
    return {
        "compressed.ckpt": _zip(zeros, zipfile.ZIP_DEFLATED),
        "lzma.ckpt": _zip(zeros, zipfile.ZIP_LZMA),
        "zip_in_zip.ckpt": _zip({"a/data.pkl": _zip(zeros, zipfile.ZIP_DEFLATED)}),
        "overlapping.ckpt": _overlapping(),
        "declared.ckpt": _declared(2**31),
        "declared_32.ckpt": _declared(2**32 - 2),
        "traversal.ckpt": _zip({"../../data.pkl": b"\x80\x02}.", "/etc/version": b"3"}),
        "no_pickle.ckpt": _zip({"a/version": b"3"}),
        "entries.ckpt": _zip({f"a/data/{i}": b"" for i in range(20_000)}),
        "end.ckpt": b"PK\x03\x04" + bytes(1000),
        "tar.pth": _tar(),
        "expanded.ckpt": _checkpoint({"a": torch.zeros(1).expand(10**12)}),
        "meta.ckpt": _checkpoint({"a": torch.empty(10**12, device="meta")}),
        "sparse.ckpt": _checkpoint(
            {"a": torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (10**12,))}
        ),
        "views.ckpt": _checkpoint({f"t{i}": t for i, t in enumerate([torch.zeros(10**5)] * 2000)}),
        "picture.ckpt": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }


def _places() -> Made:
    """What is no file, or one of nothing but holes."""
    return {
        "pipe.ckpt": lambda path: os.mkfifo(path),
        "pipe.safetensors": lambda path: os.mkfifo(path),
        "zeros.ckpt": lambda path: path.symlink_to("/dev/zero"),
        "zeros.safetensors": lambda path: path.symlink_to("/dev/zero"),
        "nothing.ckpt": lambda path: path.symlink_to("nowhere"),
        "circle.ckpt": lambda path: path.symlink_to(path.name),
        "folder.ckpt": lambda path: path.mkdir(),
        "socket.ckpt": _socket,
        "sparse_file.ckpt": lambda path: sparse_file(path, 2**36),
        "sparse_file.safetensors": lambda path: sparse_file(path, 2**36),
    }


def _socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(before)
