"""Configurations of training runs that were made to do harm, or are merely broken."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

from tests.hostile.files import Made, sparse_file, write

ROOT = Path(__file__).parents[2]


def configurations(folder: Path, seed: int = 0) -> list[Path]:
    """Writes hostile configurations of a training run into an empty folder; at least fifty."""
    chance = random.Random(seed)
    texts = {**_structures(), **_values(), **_syntax(), "bytes": chance.randbytes(5000)}
    made: Made = {
        f"{name}.yaml": text if isinstance(text, bytes) else text.encode()
        for name, text in texts.items()
    }
    for i in range(5):
        recipe = bytearray((ROOT / "configs/aio5.yaml").read_bytes())
        for _ in range(30):
            recipe[chance.randrange(len(recipe))] = chance.choice(b"{}[]&*!:,-'\"<|>%@`\t\n")
        made[f"mutated{i}.yaml"] = bytes(recipe)
    made |= {
        "pipe.yaml": lambda path: os.mkfifo(path),
        "zeros.yaml": lambda path: path.symlink_to("/dev/zero"),
        "folder.yaml": lambda path: path.mkdir(),
        "nothing_there.yaml": lambda path: path.symlink_to("nowhere"),
        "sparse.yaml": lambda path: sparse_file(path, 2**36),
    }
    return write(folder, made)


def _structures() -> dict[str, str]:
    """Much in little, deep, or round in circles."""
    levels = [chr(97 + i) for i in range(9)]
    lists = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(levels)
    )
    maps = "a: &a {x: 1, y: 2}\n" + "".join(
        f"{b}: &{b} {{{', '.join(f'k{i}: *{a}' for i in range(9))}}}\n" for a, b in pairwise(levels)
    )
    merged = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise(levels)
    )
    return {
        "laughs": lists,
        "laughs_in_a_list": lists.replace("i: &i", "data: {kinds: &i").rstrip() + "}",
        "laughs_of_maps": maps,
        "merges": merged,
        "merge": "data: &d {crop: 32}\noptimizer: {<<: *d}",
        "self": "data: &a {train: *a}",
        "self_list": "data: {kinds: &a [*a]}",
        "self_config": "&a {data: *a, model: *a}",
        "anchor_missing": "data: *none",
        "anchor_twice": "run: &a x\npreset: &a [*a]",
        "deep_lists": "data: {kinds: " + "[" * 50_000,
        "deep_lists_apart": "data: {kinds: " + "[a," * 30_000,
        "deep_maps": "{data: " * 10_000,
        "deep_dashes": "- " * 40_000,
        "deep_keys": "? " * 40_000,
        "deep_model": "model: " + "{a: " * 15 + "1" + "}" * 15,
        "many": "data: {kinds: [" + "noise," * 15_000 + "]}",
        "many_names": "model: {" + ",".join(f"a{i}: 1" for i in range(1500)) + "}",
        "long": "#" * 200_000,
        "long_text": "run: " + "x" * 90_000,
        "long_name": "x" * 1000 + ": 1",
        "long_kind": "data: {kinds: [" + "x" * 4000 + "]}",
    }


def _values() -> dict[str, str]:
    """Values that nobody can mean."""
    kinds = ",".join(["noise", "rain", "haze", "snow"] * 50)
    return {
        "mixture_of_200_kinds": f"data: {{mixture: [{{clean: a, degradation: '{kinds}'}}]}}",
        "200_kinds": "data: {kinds: [" + ",".join(f"k{i}" for i in range(200)) + "]}",
        "mixture_of_200": "data: {max_mixture: 200}",
        "200_sets": "data: {mixture: [" + "{set: wed, clean: a}," * 200 + "]}",
        "repeat": "data: {mixture: [{set: wed, repeat: 1000000000000}]}",
        "digits": "steps: " + "9" * 50_000,
        "digits_4000": "steps: " + "9" * 4000,
        "hex": "steps: 0x" + "f" * 4000,
        "hex_empty": "steps: 0x_",
        "base_60": "steps: 1" + ":59" * 1300,
        "base_60_long": "steps: 1" + ":59" * 30_000,
        "octal": "seed: 0" + "7" * 4000,
        "binary": "seed: 0b" + "1" * 4000,
        "float": "optimizer: {lr: 1e999999}",
        "nan": "optimizer: {lr: .nan}",
        "infinite": "optimizer: {weight_decay: .inf}",
        "infinite_minutes": "max_minutes: -.inf",
        "negative": "steps: -9223372036854775807",
        "steps": "steps: 18446744073709551616",
        "crop": "data: {crop: 1000000000}",
        "batch": "data: {batch_size: 1000000000000}",
        "workers": "data: {workers: 1000000}",
        "devices": "devices: 1000000\ndata: {batch_size: 1000000}",
        "dim": "model: {dim: 1000000000000}",
        "rank": "model: {rank_schedule: fact, rank: 1000000}",
        "levels": "model: {num_blocks: [" + "1," * 1000 + "]}",
        "expert": "expert_of: {noise: 1000000}",
        "date": "steps: 2024-99-99",
    }


def _syntax() -> dict[str, str | bytes]:
    """Not YAML, or YAML that is no configuration."""
    return {
        "boolean": "steps: yes",
        "null": "data: null",
        "list": "[data, model]",
        "scalar": "text",
        "nothing": "",
        "two_documents": "steps: 1\n---\nsteps: 2",
        "tabs": "data:\n\tcrop: 3",
        "set": "data: !!set {a, b}",
        "tag_float": "steps: !!float x",
        "tag_bool": "steps: !!bool x",
        "tag_int": 'steps: !!int ""',
        "tag_timestamp": "steps: !!timestamp x",
        "tag_binary": 'run: !!binary "AAAA%%%"',
        "tag_merge": "!!merge a: {b: 1}",
        "code": "run: !!python/object/apply:os.system [touch ran]",
        "code_new": "run: !!python/object/new:os.system [touch ran]",
        "code_name": "run: !!python/name:os.system",
        "yaml_9": "%YAML 9.9\n---\nsteps: 1",
        "zero_byte": "steps: 1\x00",
        "latin": "run: \xe9t\xe9".encode("latin-1"),
        "utf16": "steps: 1".encode("utf-16"),
        "keys": "{[1, 2]: 3}",
        "key_number": "3: 4",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
