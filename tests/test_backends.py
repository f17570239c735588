from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from moce_kernels import backends, fft_attention, native, registry, use_backends
from moce_kernels.backends import (
    BACKENDS,
    VARIABLE,
    BackendUnavailableError,
    choose,
    why_not,
)
from tests.ops.samples import spec_of
from tests.ops.spec import skip_unless_it_runs

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [*torch.randn(3, 1, 2, 4, 4, dtype=dtype), torch.ones(2), torch.zeros(2)]


@pytest.mark.parametrize("operator", registry.names())
def test_every_operator_runs_here(operator: str) -> None:
    runs = choose(operator, None, CPU)
    assert why_not(runs, operator, CPU) is None
    faster = BACKENDS[: BACKENDS.index(runs)]
    assert all(why_not(backend, operator, CPU) for backend in faster)


def test_float64_is_for_the_reference() -> None:
    assert choose("fft_attention", None, CPU, torch.float64) == "reference"
    with pytest.raises(BackendUnavailableError, match=r"cpu: .*not float64"):
        fft_attention(*inputs(torch.float64), 4, backend="cpu")


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_an_absent_backend_says_why_and_never_falls_back(backend: str) -> None:
    with pytest.raises(BackendUnavailableError) as raised:
        fft_attention(*inputs(), 4, backend=backend)
    message = str(raised.value)
    assert f"backend {backend!r} cannot run" in message
    for name in BACKENDS:  # each with its reason
        assert f"{name}: {why_not(name, 'fft_attention', CPU) or 'can run'}" in message


def test_the_environment_chooses_as_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("fft_attention", None, CPU) == "reference"
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(BackendUnavailableError):
        choose("fft_attention", None, CPU)
    assert choose("fft_attention", "reference", CPU) == "reference"  # the argument goes before


def test_a_backend_for_each_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = choose("depthwise_conv", None, CPU)
    for text, of_experts, of_plan, of_convolution in (
        ("grouped_experts=reference", "reference", fastest, fastest),
        (" grouped_experts = cpu , * = reference ", "cpu", "reference", "reference"),
        ("reference,grouped_experts=cpu,routing_plan=cpu", "cpu", "cpu", "reference"),
    ):
        monkeypatch.setenv(VARIABLE, text)
        assert choose("grouped_experts", None, CPU) == of_experts
        assert choose("routing_plan", None, CPU) == of_plan
        assert choose("depthwise_conv", None, CPU) == of_convolution
    assert choose("depthwise_conv", "cpu", CPU) == "cpu"
    monkeypatch.setenv(VARIABLE, "grouped_experts=triton")
    with pytest.raises(BackendUnavailableError, match=f"cannot run here; {VARIABLE} asks for it"):
        choose("grouped_experts", None, CPU)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fastest", "in 'fastest': no backend 'fastest'; there are cuda, triton, cpu, reference"),
        (
            "*=cpu, fft=cpu",
            "in 'fft=cpu': no operator 'fft'; there are channel_attention, .*for all",
        ),
        ("fft_attention=gpu", "in 'fft_attention=gpu': no backend 'gpu'"),
        ("cpu,", "in '': write operator=backend"),
        ("=cpu", "in '=cpu': write operator=backend"),
        ("fft_attention=", "in 'fft_attention=': write operator=backend"),
        ("fft_attention=cpu=cpu", "no operator 'fft_attention=cpu'"),
        ("cpu,*=reference", r"in '\*=reference': \* is named twice"),
    ],
)
def test_a_setting_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"^{VARIABLE}: .*{problem}"):
        choose("fft_attention", None, CPU)


def test_use_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")

    def chosen() -> list[str]:
        return [choose(o, None, CPU) for o in ("grouped_experts", "routing_plan", "fft_attention")]

    with use_backends(grouped_experts="reference"):
        assert chosen() == ["reference", "cpu", "cpu"]
        with use_backends(routing_plan="reference"):
            assert chosen() == ["reference", "reference", "cpu"]
            assert choose("routing_plan", "cpu", CPU) == "cpu"
        with use_backends("reference", routing_plan="cpu"):
            assert chosen() == ["reference", "cpu", "reference"]
        assert chosen() == ["reference", "cpu", "cpu"]
    with pytest.raises(RuntimeError, match="inside"), use_backends("reference"):
        raise RuntimeError("inside")
    assert chosen() == ["cpu", "cpu", "cpu"]
    for arguments, names in ((("gpu",), {}), ((), {"fft": "cpu"}), (("",), {})):
        with (
            pytest.raises(ValueError, match=r"^use_backends: in"),
            use_backends(*arguments, **names),
        ):
            raise AssertionError("it must not be entered")


def test_compiled_code_follows_use_backends() -> None:
    graphs = []

    def note(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nodes = [str(node.target) for node in graph.graph.nodes]
        graphs.append("moce_kernels.fft_attention" in nodes)
        return graph

    tensors = inputs()
    compiled = torch.compile(lambda *t: fft_attention(*t, 4), backend=note, fullgraph=True)
    with use_backends("cpu"):
        compiled(*tensors)
        compiled(*tensors)
    assert graphs == [True]
    with use_backends("reference"):
        compiled(*tensors)
    assert graphs == [True, False]
    with use_backends("cpu"):
        compiled(*tensors)
    assert graphs == [True, False]

    @torch.compile(backend=note, fullgraph=True)
    def chooses(*tensors: torch.Tensor) -> torch.Tensor:
        with use_backends("reference"):
            first = fft_attention(*tensors, 4)
        return first + fft_attention(*tensors, 4, backend="cpu")

    chooses(*tensors)
    assert graphs == [True, False, True]


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "moce_kernels":
            self.called.add(func.overloadpacket.__name__.partition("_backward")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("operator", registry.names())
def test_what_gradients_call(operator: str) -> None:
    """Operators declare it: an error's remedy goes by it. On a GPU, which meta tensors stand for;
    the CPU library's gradients of whole blocks call none."""
    assert native.load("cpu") is None  # which calls an operator of its own
    sample = next(spec_of(operator).tiny())
    leaves = {n: t.float().requires_grad_() for n, t in sample.tensors.items()}
    with Operators() as seen:
        sample.call("cpu", **leaves).sum().backward()
    assert seen.called == {operator}
    arguments = tree_map_only(torch.Tensor, lambda t: t.detach().to("meta"), sample.raw(**leaves))
    for t in tree_leaves(arguments):
        if isinstance(t, torch.Tensor):
            t.requires_grad_(t.is_floating_point())
    with Operators() as seen:
        results = tree_leaves(getattr(torch.ops.moce_kernels, operator)(*arguments))
        next(t for t in results if t.requires_grad).sum().backward()
    assert seen.called == {operator, *registry.OPERATORS[operator].gradient_calls}


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"backend must be one of .*, not 'gpu'"):
        fft_attention(*inputs(), 4, backend="gpu")


@pytest.mark.parametrize("module", ["moce_kernels", "moceir.inference.restorer"])
def test_compilers_are_not_loaded(module: str) -> None:
    """torch._dynamo takes seconds, which those who compile nothing need not wait."""
    script = f"import sys, {module}; print('torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_compiler_still_knows_constants_by_this_mark() -> None:
    """backends sets it by hand."""
    assert torch.compiler.assume_constant_result(lambda: None)._dynamo_marked_constant
    assert backends._choose._dynamo_marked_constant


@pytest.fixture
def fresh_loads() -> object:
    native._load.cache_clear()
    yield
    native._load.cache_clear()


def test_without_the_library_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, fresh_loads: object
) -> None:
    """As on a machine without a C++ compiler: setup.py notes why it left the library out."""
    (tmp_path / "_build.json").write_text('{"cpu": "there was no C++ compiler"}')
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    for operator in registry.names("cpu"):
        assert choose(operator, None, CPU) == "reference"
    with pytest.raises(BackendUnavailableError, match="no CPU library: there was no C\\+\\+ comp"):
        fft_attention(*inputs(), 4, backend="cpu")


def test_a_library_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, fresh_loads: object
) -> None:
    (tmp_path / "_moce_cpu.so").write_text("not a library")
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"_moce_cpu\.so does not load: .*"):
        fft_attention(*inputs(), 4, backend="cpu")
    assert choose("fft_attention", None, CPU) == "reference"


def test_a_library_that_did_not_load_once_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, fresh_loads: object
) -> None:
    skip_unless_it_runs("cpu", "fft_attention")
    native._load.cache_clear()

    def fail(path: object) -> None:
        raise OSError("Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(torch.ops, "load_library", fail)
        assert native.load("cpu") == "_moce_cpu.so does not load: Too many open files"
        assert choose("fft_attention", None, CPU) == "reference"
    assert native.load("cpu") is None
    assert choose("fft_attention", None, CPU) == "cpu"


PROGRAM = """
import sys, warnings
from pathlib import Path
from moce_kernels import native

native.FOLDER = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    reason = native.load("cpu")
print(reason or f"runs {native.cpu_capability()}")
assert [str(w.message) for w in caught] == [
    f"moce_kernels runs without its CPU kernels: {r}" for r in (reason,) if r
]
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have one alone")
@pytest.mark.parametrize(
    ("sets", "limit", "result"),
    [
        ("avx512", "avx2", "compiled for avx512, which this processor or ATEN_CPU_CAPABILITY=avx2"),
        ("avx2 avx512", "default", "compiled for avx2, avx512, which .* install the package on"),
        ("baseline avx512", "avx2", "runs baseline"),
        ("baseline", None, "runs baseline"),
    ],
)
def test_a_library_for_other_processors(
    sets: str, limit: str | None, result: str, tmp_path: Path
) -> None:
    """What an environment that was copied to an older machine meets; newer ones run all of it."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    torch_folder = Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-isystem{torch_folder / 'include'}"]
    command += [f"-DMOCE_HAS_{name.upper()}" for name in sets.split()]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", str(ROOT / "csrc/cpu/capability.cpp")]
    command += ["-o", str(tmp_path / "_moce_cpu.so"), f"-L{torch_folder / 'lib'}"]
    subprocess.run([*command, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    (tmp_path / "_build.json").write_text(json.dumps({"cpu_isa": sets.split()}))
    environment = {name: v for name, v in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=environment | ({"ATEN_CPU_CAPABILITY": limit} if limit else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(result, done.stdout), done.stdout


@pytest.mark.parametrize(
    ("gpu", "runs"), [((8, 0), True), ((8, 9), True), ((7, 5), False), ((9, 0), False)]
)
def test_gpus_that_the_cuda_library_has_no_code_for(
    gpu: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_build.json").write_text('{"cuda": "built", "cuda_archs": ["8.0"]}')
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpu)
    reason = native.why_not_on_gpu.__wrapped__(0)
    if runs:
        assert reason is None
    else:
        here = f"{gpu[0]}.{gpu[1]}"
        assert f"built for 8.0 and this GPU is {here}" in reason
        assert f"MOCE_CUDA_ARCHS={here}" in reason
    (tmp_path / "_build.json").write_text('{"cuda": "built", "cuda_archs": ["7.5+PTX"]}')
    assert native.why_not_on_gpu.__wrapped__(0) is None  # compiled by the driver
