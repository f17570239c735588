"""Builds the compiled kernels of moce_kernels: plain shared libraries on the LibTorch stable ABI.

``_moce_cpu.so`` holds the C++ kernels for CPUs, ``_moce_cuda.so`` the CUDA C++ kernels. They depend
neither on the Python nor on the torch version they are built with (torch >= 2.11 at run time), and
the CUDA library is built with CPU-only torch just as well. Without a C++ compiler, or without nvcc,
the package installs without them, and ``python -m moce_kernels.info`` says so. The CPU library is
built on Linux and macOS, the CUDA library on Linux; Windows gets neither.

Environment:
    MOCE_CPU_ISA: instruction sets of the CPU library: "all", or some of baseline, avx2, avx512 and
        avx512_bf16 (on 64-bit Arm there is only neon); by default the best one of this machine,
        which is quick to build but works only on machines like it. Builds for other machines, such
        as wheels, need "all".
    MOCE_CUDA: 0 skips the CUDA library, 1 requires it; by default it is built where there are nvcc
        and an NVIDIA GPU, or where MOCE_CUDA_ARCHS is set.
    MOCE_CUDA_ARCHS: what it is compiled for, such as "8.0 9.0+PTX"; by default the compute
        capability of the GPUs of this machine, or else DEFAULT_ARCHS.
    CUDA_HOME: the CUDA toolkit; by default that of the nvcc on the path.
    CXX, CXXFLAGS, NVCCFLAGS, LDFLAGS: C++ compiler, added flags. MAX_JOBS: parallel compilations.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
# The oldest torch the libraries must open in: 2.11, as the headers spell it.
TORCH_TARGET_VERSION = "0x020b000000000000"
GIB_PER_JOB = 1.5  # memory one compilation may take

# PTX of the last is added: the driver compiles it for newer GPUs. Machine code for 10.0 and
# 12.0 would cost a quarter more time each, and nothing here needs what is new in them.
DEFAULT_ARCHS = ("8.0", "8.6", "8.9", "9.0")
# The kernels' element types: a file of kernels is compiled once for each, side by side.
CUDA_SCALARS = {
    "float": "float",
    "bfloat16": "torch::headeronly::BFloat16",
    "half": "torch::headeronly::Half",
}

# Kernels (csrc/cpu/*_kernel.cpp) are compiled once for each instruction set; the best comes last.
INSTRUCTION_SETS: dict[str, list[str]]
if platform.machine().lower() in ("aarch64", "arm64"):
    # GCC's scheduler, before it has allocated registers, loads more than they hold. Clang has no
    # such option and is told not to mind.
    without = ["-fno-schedule-insns", "-Wno-ignored-optimization-argument"]
    INSTRUCTION_SETS = {"neon": ["-DMOCE_LANES=4", *without]}
else:
    INSTRUCTION_SETS = {"baseline": ["-DMOCE_LANES=4"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    avx512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    INSTRUCTION_SETS["avx2"] = ["-DMOCE_LANES=8", *avx2]
    INSTRUCTION_SETS["avx512"] = ["-DMOCE_LANES=16", *avx2, *avx512]
    # With AMX, in assembly, for processors that have it beside these.
    INSTRUCTION_SETS["avx512_bf16"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16"]

# The kernels that take longest to compile: those begin first, so that nothing waits for them.
SLOWEST = ("depthwise_conv_kernel", "fft_attention_kernel", "grouped_experts_kernel")


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What to compile for: MOCE_CPU_ISA, or the best that this machine has.

    Without ``cpuinfo``, which only Linux has, that is taken to be the first one.
    """
    asked = os.environ.get("MOCE_CPU_ISA", "").replace(",", " ").split()
    if asked == ["all"]:
        return list(INSTRUCTION_SETS)
    for name in asked:
        if name not in INSTRUCTION_SETS:
            raise SystemExit(
                f"MOCE_CPU_ISA: {name!r} is none of {', '.join(INSTRUCTION_SETS)}, nor 'all' alone"
            )
    if asked:
        return [name for name in INSTRUCTION_SETS if name in asked]
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    # Compilers and Linux spell this one differently.
    here = {f"-m{word}".replace("avx512_bf16", "avx512bf16") for word in words}
    return [
        name
        for name, flags in INSTRUCTION_SETS.items()
        if here.issuperset(flag for flag in flags if flag.startswith("-m"))
    ][-1:]


def compiled_sets(compiler: str, sets: list[str]) -> list[str]:
    """Those of ``sets`` that the compiler and its assembler know: the newest may be too new.

    If it was the only one, the one before takes its place.
    """
    newest = "avx512_bf16"
    if newest not in sets or _compiles(compiler, INSTRUCTION_SETS[newest], AMX_PROGRAM):
        return sets
    return [name for name in sets if name != newest] or ["avx512"]


AMX_PROGRAM = 'void f() { asm volatile("tdpbf16ps %tmm0, %tmm1, %tmm2"); }'


def _compiles(compiler: str, flags: list[str], program: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.cpp")
        source.write_text(program)
        command = [compiler, *flags, "-c", str(source), "-o", f"{source}.o"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def find_compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = filter(None, map(shutil.which, names))
    # Without its developer tools macOS has a c++ that only says so.
    return next(filter(_runs, found), None)


def _runs(compiler: str) -> bool:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, check=False)
    except OSError:  # a file that is no program
        return False
    return done.returncode == 0


def jobs() -> int:
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # not on Linux
        cores = os.cpu_count() or 1
    # macOS does not say how much of its memory is free.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    memory = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(cores, int(memory / GIB_PER_JOB)))


class Cuda(NamedTuple):
    nvcc: str
    root: Path  # of the toolkit
    version: str
    archs: tuple[str, ...]  # "9.0", or "9.0+PTX"


class CannotBuildCudaError(Exception):
    """Why the CUDA library is left out."""


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildCudaError(f"{shlex.join(command)} fails: {done.stderr.strip()}")
    return done.stdout + done.stderr


def find_cuda() -> Cuda:
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(str(Path(home, "bin", "nvcc")) if home else "nvcc")
    if nvcc is None:
        where = f"in CUDA_HOME, {home}," if home else "on the path"
        raise CannotBuildCudaError(f"there was no nvcc {where} at installation")
    if home:
        root = Path(home)
    else:
        # The nvcc on the path may be a script or a link that stands elsewhere; it knows its place.
        with tempfile.NamedTemporaryFile(suffix=".cu") as empty:
            top = re.search(r"^#\$ _?TOP=(.+)$", output_of(nvcc, "-dryrun", "-c", empty.name), re.M)
        if top is None:
            raise CannotBuildCudaError(f"{nvcc} does not say where its toolkit is; set CUDA_HOME")
        root = Path(top[1].strip()).resolve()
    version = re.search(r"release ([\d.]+)", output_of(nvcc, "--version"))
    known = re.findall(r"compute_(\d+)", output_of(nvcc, "--list-gpu-arch"))
    return Cuda(nvcc, root, version[1] if version else "unknown", cuda_archs(known))


def cuda_to_build(wanted: str) -> Cuda:
    """What to build the CUDA library with; ``wanted`` is MOCE_CUDA's value.

    Raises:
        CannotBuildCudaError: it is not wanted, there is no nvcc, or nothing here could use it: it
            takes minutes, which would be a waste without a GPU.
    """
    if wanted == "0":
        raise CannotBuildCudaError("MOCE_CUDA=0 at installation")
    if not sys.platform.startswith("linux"):
        raise CannotBuildCudaError(
            f"the CUDA kernels are built on Linux only, this is {sys.platform}"
        )
    cuda = find_cuda()
    if not (wanted or os.environ.get("MOCE_CUDA_ARCHS") or gpus()):
        raise CannotBuildCudaError(
            "there was no NVIDIA GPU at installation; MOCE_CUDA=1 builds it nevertheless"
        )
    return cuda


def cuda_archs(known: list[str]) -> tuple[str, ...]:
    """What to compile for: MOCE_CUDA_ARCHS, or this machine's GPUs, or the default."""
    asked = os.environ.get("MOCE_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    for arch in asked:
        if not re.fullmatch(r"\d+\.\d(\+PTX)?", arch):
            raise SystemExit(f"MOCE_CUDA_ARCHS: {arch!r} is not like 9.0 or 9.0+PTX")
        if arch.removesuffix("+PTX").replace(".", "") not in known:
            raise SystemExit(f"MOCE_CUDA_ARCHS: this nvcc does not know {arch}")
    if asked:
        return tuple(dict.fromkeys(asked))
    here = [arch for arch in gpus() if arch.replace(".", "") in known]
    if here:
        return tuple(here)
    archs = [arch for arch in DEFAULT_ARCHS if arch.replace(".", "") in known]
    return (*archs[:-1], f"{archs[-1]}+PTX")


def gpus() -> list[str]:
    """The compute capabilities of this machine's GPUs."""
    try:
        here = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    except (OSError, CannotBuildCudaError):
        here = []
    return sorted(set(here))


def gencode(archs: tuple[str, ...]) -> list[str]:
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        kinds = (
            f"sm_{number}"
            if number == arch.replace(".", "")
            else (f"[sm_{number},compute_{number}]")
        )
        flags.append(shlex.quote(f"-gencode=arch=compute_{number},code={kinds}"))
    return flags


def in_ninja(path: str | Path) -> str:
    """A path as a build line of ninja takes it; the shell sees it quoted."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def write_ninja(
    folder: Path,
    output: Path,
    steps: list[tuple[Path, str, list[str]]],
    compiler: str,
    flags: list[str],
    libraries: list[str],
    link_with: str,
) -> None:
    """A build.ninja that makes ``output`` from steps: source, name of the object, more flags."""
    lines = [
        f"compiler = {compiler}",
        f"flags = {' '.join(flags)}",
        "rule compile",
        "  command = $compiler -MMD -MF $out.d $flags $more -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {link_with} -shared $in -o $out {' '.join(libraries)} "
        f"{os.environ.get('LDFLAGS', '')}",
    ]
    for source, name, more in steps:
        lines += [f"build {name}.o: compile {in_ninja(source)}", f"  more = {' '.join(more)}"]
    objects = " ".join(f"{name}.o" for _, name, _ in steps)
    lines.append(f"build {in_ninja(output)}: link {objects}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")


def common_flags() -> list[str]:
    return [
        *("-std=c++20", "-O3"),
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        f"-I{shlex.quote(str(CSRC / 'include'))}",
    ]


HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-g0"]


def torch_folder(name: str) -> str:
    import torch

    return shlex.quote(str(Path(torch.__file__).parent / name))


def write_cpu_ninja(folder: Path, compiler: str, sets: list[str], output: Path) -> None:
    sources = sorted((CSRC / "cpu").glob("*.cpp"), key=lambda s: (s.stem not in SLOWEST, s.stem))
    host = [f"-isystem {torch_folder('include')}", *(f"-DMOCE_HAS_{s.upper()}" for s in sets)]
    steps = []
    for source in sources:
        if source.stem.endswith("_kernel"):
            # Kernels know nothing of PyTorch: its inline functions must not become AVX-512.
            for isa in sets:
                more = [f"-DMOCE_ISA={isa}", *INSTRUCTION_SETS[isa]]
                steps.append((source, f"{source.stem}_{isa}", more))
        else:
            steps.append((source, source.stem, host))
    flags = [*common_flags(), *HOST_FLAGS, "-fno-math-errno", os.environ.get("CXXFLAGS", "")]
    if "avx512_bf16" in sets:
        flags.append("-DMOCE_HAS_AMX")
    libraries = [f"-L{torch_folder('lib')}", "-ltorch -ltorch_cpu -lc10"]
    compiler = shlex.quote(compiler)
    write_ninja(folder, output, steps, compiler, flags, libraries, compiler)


def write_cuda_ninja(folder: Path, compiler: str, cuda: Cuda, output: Path) -> None:
    steps = []
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        if source.stem.endswith("_kernel"):
            for scalar, name in CUDA_SCALARS.items():
                more = [f"-DMOCE_SCALAR={name}", f"-DMOCE_SCALAR_NAME={scalar}"]
                steps.append((source, f"{source.stem}_{scalar}", more))
        else:
            steps.append((source, source.stem, []))
    flags = [
        *common_flags(),
        *(f"-Xcompiler {flag}" for flag in HOST_FLAGS),
        *(
            "-DUSE_CUDA",
            "--expt-relaxed-constexpr",
            f"-ccbin {shlex.quote(compiler)}",
            f"-isystem {torch_folder('include')}",
        ),
        *gencode(cuda.archs),
        os.environ.get("NVCCFLAGS", ""),
    ]
    # libtorch alone brings in libtorch_cuda where there is one, whose symbols the library uses and
    # which the torch that it is built with may lack. Its own runtime library is within.
    cuda_lib = next(p for p in (cuda.root / "lib64", cuda.root / "lib") if p.is_dir())
    libraries = [
        *(f"-L{torch_folder('lib')}", "-Wl,--no-as-needed -ltorch -Wl,--as-needed"),
        *(f"-L{shlex.quote(str(cuda_lib))}", "-lcudart_static -lpthread -ldl -lrt"),
    ]
    nvcc = shlex.quote(cuda.nvcc)
    write_ninja(folder, output, steps, nvcc, flags, libraries, shlex.quote(compiler))


class BuildLibraries(build_ext):
    """Builds the libraries with ninja, or leaves them out and notes why."""

    def run(self) -> None:
        wanted = os.environ.get("MOCE_CUDA", "")
        if wanted not in ("", "0", "1"):
            raise SystemExit(f"MOCE_CUDA must be 0 or 1, not {wanted!r}")
        self.compiler_path = find_compiler()
        self.cuda: Cuda | None = None
        report: dict[str, str | list[str]] = {}
        if not sys.platform.startswith(("linux", "darwin")):
            reason = (
                f"the kernels are built on Linux and macOS only, this is {sys.platform}: operators "
                "run in plain PyTorch"
            )
        elif self.compiler_path is None:
            reason = "there was no C++ compiler (CXX, c++, g++ or clang++) at installation"
        else:
            reason = None
        if reason:
            report = {"cpu": reason, "cuda": reason}
        else:
            wanted_sets = instruction_sets()
            self.sets = compiled_sets(self.compiler_path, wanted_sets)
            for name in (name for name in wanted_sets if name not in self.sets):
                self.warn(f"{self.compiler_path} is too old to compile the CPU kernels for {name}")
            version = compiler_version(self.compiler_path)
            report["cpu"] = f"built with {version} for {', '.join(self.sets)}"
            report["cpu_isa"] = self.sets
            try:
                self.cuda = cuda_to_build(wanted)
                archs = self.cuda.archs
                report["cuda"] = f"built with nvcc {self.cuda.version} for {', '.join(archs)}"
                report["cuda_archs"] = list(archs)
            except CannotBuildCudaError as problem:
                report["cuda"] = str(problem)
        if wanted == "1" and self.cuda is None:
            raise SystemExit(f"MOCE_CUDA=1, but the CUDA library cannot be built: {report['cuda']}")
        missing = {"cpu": reason is not None, "cuda": self.cuda is None}
        for name in (name for name, out in missing.items() if out):
            self.warn(
                f"moce_kernels is installed without its {name.upper()} kernels: {report[name]}"
            )
        self.extensions = [e for e in self.extensions if not missing[library_name(e)]]
        package = ROOT / "moce_kernels" if self.inplace else Path(self.build_lib) / "moce_kernels"
        package.mkdir(parents=True, exist_ok=True)
        for name in (name for name, out in missing.items() if out):
            # What an earlier build left would be taken for this one's.
            (package / f"_moce_{name}.so").unlink(missing_ok=True)
        super().run()
        (package / "_build.json").write_text(json.dumps(report, indent=2) + "\n")

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        # In a working tree objects stay, and ninja compiles only what has changed.
        folder = (ROOT / "build" if self.inplace else Path(self.build_temp)) / library_name(ext)
        folder = folder.resolve()
        if library_name(ext) == "cpu":
            write_cpu_ninja(folder, self.compiler_path, self.sets, output)
        else:
            write_cuda_ninja(folder, self.compiler_path, self.cuda, output)
        command = [sys.executable, "-m", "ninja", "-C", str(folder), "-j", str(jobs())]
        subprocess.run(command, check=True)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # no Python version in the name


def library_name(ext: Extension) -> str:
    return ext.name.rpartition("_moce_")[2]


def compiler_version(compiler: str) -> str:
    return output_of(compiler, "--version").splitlines()[0]


class Wheel(bdist_wheel):
    """One wheel for every Python: the libraries do not use its ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        ext_modules=[Extension(f"moce_kernels._moce_{n}", sources=[]) for n in ("cpu", "cuda")],
        cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    )
