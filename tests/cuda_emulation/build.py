"""Compiles csrc/cuda for this CPU: ``python -m tests.cuda_emulation.build <library>``.

There need be neither a GPU nor a CUDA toolkit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
HERE, CUDA = ROOT / "tests/cuda_emulation", ROOT / "csrc/cuda"
TORCH = Path(torch.__file__).parent
SCALARS = {
    "float": "float",
    "bfloat16": "torch::headeronly::BFloat16",
    "half": "torch::headeronly::Half",
}
DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DUSE_CUDA", "-DMOCE_DEVICE_KEY=CPU"]
# A GPU takes no address that is not aligned.
SANITIZER = ["-fsanitize=alignment", "-fno-sanitize-recover=alignment"]
INCLUDES = [f"-I{HERE}", f"-I{ROOT / 'csrc/include'}", f"-I{CUDA}"]


def build(compiler: str, library: Path) -> None:
    flags = [
        # Some compilers define it; it takes a jump to another stack for an error.
        *("-U_FORTIFY_SOURCE", "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden"),
        *SANITIZER,
        *INCLUDES,
        *("-isystem", str(TORCH / "include")),
        *DEFINES,
    ]
    objects = []

    def compile_source(source: Path, name: str, *more: str) -> None:
        objects.append(str(library.with_name(f"{name}.o")))
        command = [compiler, *flags, *more, "-x", "c++", "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True)

    compile_source(HERE / "emulation.cpp", "emulation")
    for source in sorted(CUDA.glob("*.cu")):
        if source.stem.endswith("_kernel"):
            for name, scalar in SCALARS.items():
                defines = (f"-DMOCE_SCALAR={scalar}", f"-DMOCE_SCALAR_NAME={name}")
                compile_source(source, f"{source.stem}_{name}", *defines)
        else:
            compile_source(source, source.stem)
    # Some functions of PyTorch's are replaced: by the library's own, for itself alone.
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    link = [compiler, "-shared", "-Wl,-Bsymbolic", *SANITIZER, *objects, *libraries]
    subprocess.run([*link, "-o", str(library)], check=True)


if __name__ == "__main__":
    build("c++", Path(sys.argv[1]))
