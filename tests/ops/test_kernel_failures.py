"""A kernel that does not compile or load is named, with the setting that goes on without it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import triton_kernels
from moce_kernels.absent_gpu import Operators, Target, absent_gpu
from moce_kernels.failures import BackendUnavailableError, KernelUnavailableError
from moce_kernels.ops import _library

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import triton
import triton.language as tl
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler.errors import CompilationError
from triton.runtime import JITFunction, driver
from triton.runtime.errors import OutOfResources, PTXASError

from moce_kernels.triton_kernels._common import launching
from tests.ops.samples import SPECS
from tests.ops.spec import OpSpec


@triton.jit
def _planted(x, RIGHT: tl.constexpr):
    tl.static_assert(RIGHT, "planted")
    tl.store(x, 1.0)


def launch_planted(x: Tensor, right: bool) -> None:
    _planted[(1,)](x, RIGHT=right)


class GPU(Target):
    """What Triton asks for until it has loaded a kernel, which this GPU refuses."""

    launcher_cls = staticmethod(lambda source, metadata: None)

    @property
    def utils(self) -> SimpleNamespace:
        def load_binary(*_: Any) -> None:
            raise RuntimeError("Triton Error [CUDA]: no kernel image is available")

        properties = {"max_shared_mem": 232448}
        return SimpleNamespace(
            load_binary=load_binary, get_device_properties=lambda device: properties
        )


@pytest.fixture(autouse=True)
def refusing_gpu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", GPU(90))
    yield
    _planted.device_caches.clear()


def raising(error: Exception) -> Callable[..., Any]:
    def run(self: JITFunction, *args: Any, **kwargs: Any) -> None:
        raise error

    return run


def failure(operator: str, function: Callable[..., Any], *arguments: Any) -> KernelUnavailableError:
    return failure_of(lambda: launching(operator, function)(*arguments))


def failure_of(call: Callable[[], Any]) -> KernelUnavailableError:
    with pytest.raises(BackendUnavailableError) as raised:
        call()
    error = raised.value
    assert isinstance(error, KernelUnavailableError)
    assert isinstance(error.__cause__, Exception)
    message = str(error)
    assert message.count(str(error.__cause__)) == 1
    assert "for this GPU (compute capability 9.0): " + type(error.__cause__).__name__ in message
    return error


def test_a_kernel_that_does_not_compile() -> None:
    for _ in range(2):  # it is not left out the second time either
        error = failure("grouped_experts", launch_planted, torch.zeros(1), False)
        assert isinstance(error.__cause__, CompilationError)
        assert "planted" in str(error.__cause__)
        assert str(error).startswith("grouped_experts: Triton cannot compile or load _planted for ")
        assert 'set MOCE_KERNELS_BACKEND="grouped_experts=reference"' in str(error)
        assert 'moce_kernels.use_backends(grouped_experts="reference")' in str(error)


def test_a_pass_of_the_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor the driver has exceptions of its own."""
    error = RuntimeError("PassManager::run failed")
    monkeypatch.setattr(CUDABackend, "make_ttgir", staticmethod(raising(error)))
    assert failure("routing_plan", launch_planted, torch.zeros(1), True).__cause__ is error


def test_a_kernel_that_does_not_load() -> None:
    error = failure("routing_plan", launch_planted, torch.zeros(1), True)
    assert "no kernel image" in str(error.__cause__)


class Launching(Operators):
    """The implementations of the raw operators as they are registered."""

    def __init__(self) -> None:
        assert triton_kernels.load() is None
        super().__init__()
        found = self.implementations.items()
        self.implementations = {key: launching(key[1], function) for key, function in found}


@pytest.mark.parametrize(
    "error", [OutOfResources(300000, 232448, "shared memory"), PTXASError("ptxas died")], ids=repr
)
@pytest.mark.parametrize(
    "spec", [pytest.param(s, id=s.name) for s in SPECS if "triton" in s.kernels]
)
def test_every_operator_is_named(spec: OpSpec, error: Exception) -> None:
    """Forward and backward, whichever operator's kernel it is that fails."""
    fails = True

    def launch(*_: Any) -> None:
        if fails:
            raise error

    def check(call: Callable[[], Any]) -> None:
        message = str(failure_of(call))
        assert message.startswith(f"{spec.name}: Triton cannot compile or load ")
        assert "one of its kernels" not in message  # it has a name
        assert f'MOCE_KERNELS_BACKEND="{spec.name}=reference"' in message

    with absent_gpu(90, launch, library=False, operators=Launching()):
        sample = next(spec.tiny())
        leaves = {name: t.requires_grad_() for name, t in sample.tensors.items()}
        check(lambda: sample.call("triton", **leaves))
        fails = False
        out = sample.call("triton", **leaves)
        fails = True
        if spec.name != "routing_plan":  # whose gradient is PyTorch's
            check(lambda: torch.autograd.grad(out.sum(), list(leaves.values())))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=repr,
)
def test_other_errors_stay_what_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JITFunction, "run", raising(error))
    with pytest.raises(type(error)) as raised:
        launching("routing_plan", launch_planted)(torch.zeros(1), True)
    assert raised.value is error


def test_the_operator_that_was_called_is_named_for_its_gradient() -> None:
    """A GDFN's gradient launches kernels of a 1x1 convolution, whose own backend is another's."""

    def backward(ops: Any, ctx: Any, grad: Tensor) -> Tensor:
        return launching("pointwise_conv_backward", launch_planted)(grad, False)

    _library.declare("planted", "(Tensor x) -> Tensor", torch.empty_like, None, backward)
    torch.library.impl("moce_kernels::planted", "cpu")(torch.clone)
    out = torch.ops.moce_kernels.planted(torch.zeros(1, requires_grad=True))
    with pytest.raises(KernelUnavailableError, match=r"^planted: .*_planted") as raised:
        out.sum().backward()
    assert 'MOCE_KERNELS_BACKEND="planted=reference"' in str(raised.value)
    assert "as a part of" not in str(raised.value)


def test_a_part_of_an_unknown_whole() -> None:
    """In a graph of torch.compile a gradient's parts do not know what they belong to."""
    error = failure("pointwise_conv_backward", launch_planted, torch.zeros(1), False)
    whole = "gated_feedforward or projected_depthwise_conv or transposed_attention"
    assert f"If it runs as a part of {whole}, name that instead." in str(error)


def test_a_cuda_kernel_without_an_image() -> None:
    text = "kernel launch: no kernel image is available for execution on the device"
    planted = RuntimeError(text)

    def forward(x: Tensor, fails: bool) -> Tensor:
        if fails:
            raise planted
        return x.clone()

    def backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ops.without_image(grad, True), None

    schema = "(Tensor x, bool fails) -> Tensor"
    _library.declare("without_image", schema, lambda x, _: torch.empty_like(x), None, backward)
    torch.library.impl("moce_kernels::without_image", "cpu")(forward)
    x = torch.zeros(1, requires_grad=True)
    out = _library.kernels("cuda").without_image(x, False)
    for call in (
        lambda: _library.kernels("cuda").without_image(x, True),
        lambda: out.sum().backward(),
    ):
        with pytest.raises(
            KernelUnavailableError, match=r"^without_image: the CUDA library"
        ) as raised:
            call()
        assert raised.value.__cause__ is planted
        assert str(raised.value).count(text) == 1
        assert 'MOCE_KERNELS_BACKEND="without_image=reference"' in str(raised.value)
    planted = RuntimeError("kernel launch: an illegal memory access was encountered")
    with pytest.raises(RuntimeError) as other:
        _library.kernels("cuda").without_image(x, True)
    assert other.value is planted
    compiled = torch.compile(
        lambda x: _library.kernels("cuda").without_image(x, False), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(x), x)
