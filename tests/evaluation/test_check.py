"""``moceir check``: kernels that are wrong are found, and those that are right are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from moce_kernels import backends, registry
from moce_kernels.failures import KernelUnavailableError
from moce_kernels.ops import _library
from moceir.commands.main import main
from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError, TooLittleMemory
from moceir.evaluation import check
from moceir.evaluation.check import TOGETHER, Finding, check_kernels, remedy
from moceir.model import MoCEIR
from moceir.model.network import OPERATORS
from tests.ops.spec import skip_unless_it_runs

CPU = torch.device("cpu")
SMALL = MoCEIRConfig(
    dim=8, num_blocks=(1, 1), num_dec_blocks=(1,), num_refinement_blocks=1, heads=(1, 2)
)


def found(*operators: str, precision: str = "float32") -> list[Finding]:
    skip_unless_it_runs("cpu", "fft_attention")
    return [*check_kernels(CPU, [precision], operators, [SMALL], (13, 18))]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``moceir check`` of a small network."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setattr(check, "_small", lambda dim: SMALL)

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["check", "--device", "cpu", *words])

    return run


class Altered:
    """The raw operators, of which one changes its result."""

    def __init__(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        self.name, self.change = name, change

    def __getattr__(self, name: str) -> Any:
        call = getattr(torch.ops.moce_kernels, name)
        return (lambda *a: self.change(call(*a))) if name == self.name else call


def alter(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Tensor], Tensor]) -> None:
    monkeypatch.setattr(_library, "kernels", lambda backend: Altered(name, change))


@pytest.mark.parametrize(
    ("precision", "operators"), [("float32", (TOGETHER, *OPERATORS)), ("bfloat16", (TOGETHER,))]
)
def test_every_kernel_is_right(
    precision: str, operators: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    results = found(*operators, precision=precision)
    assert [f.operator for f in results] == [*operators]
    assert all(f.right for f in results), results
    assert remedy(results) is None


def test_each_operator_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not could be anything."""
    called: set[str] = set()
    choose = backends.choose

    def noted(operator: str, *rest: Any) -> str:
        called.add(operator)
        return choose(operator, *rest)

    monkeypatch.setattr(backends, "choose", noted)
    works = [check._network(SMALL, (13, 18), CPU), *check._building_blocks(CPU)]
    assert {o for work in works for o in work.operators} == {TOGETHER, *registry.names()}
    for work in works:
        called.clear()
        work.run(torch.float32, 0)
        assert called == {*work.operators} - {TOGETHER}


@pytest.mark.parametrize("part", ["value", "gradient", "edge"])
def test_a_wrong_kernel_is_found(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(t: Tensor) -> Tensor:
        if part == "value":
            return t * 1.001
        if part == "edge":
            return torch.cat([t[..., :-1], 1.01 * t[..., -1:]], dim=-1)
        return t.detach() + 1.001 * (t - t.detach())

    alter(monkeypatch, "gated_feedforward", change)
    results = found("gated_feedforward", "pointwise_conv")
    assert {f.operator for f in results if not f.right} == {"gated_feedforward"}
    said = remedy(results)
    assert said is not None and 'MOCE_KERNELS_BACKEND="gated_feedforward=reference"' in said


def test_the_next_backend_that_is_right_is_the_remedy() -> None:
    of = Finding("grouped_experts", "cuda", "float32", "")
    results = [of, of._replace(backend="triton", error=0.0, share=0.5)]
    assert 'MOCE_KERNELS_BACKEND="grouped_experts=triton"' in (remedy(results) or "")
    # Right in one precision is not enough.
    results.append(of._replace(backend="triton", precision="bfloat16"))
    assert 'MOCE_KERNELS_BACKEND="grouped_experts=reference"' in (remedy(results) or "")
    together = of._replace(operator=TOGETHER, backend="default")
    assert 'MOCE_KERNELS_BACKEND="reference"' in (remedy([together]) or "")


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (KernelUnavailableError("pointwise_conv", "does not compile"), True),
        (KernelUnavailableError("pointwise_conv", "CUDA error: no kernel image"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False),
    ],
)
def test_a_kernel_that_fails(
    error: RuntimeError, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(t: Tensor) -> Tensor:
        raise error

    alter(monkeypatch, "pointwise_conv", fails)
    results = found("pointwise_conv", "routing_plan")
    assert [f.operator for f in results] == ["pointwise_conv", *["routing_plan"] * goes_on]
    assert not results[0].right and type(error).__name__ in (results[0].problem or "")
    assert ("nothing more can be run" in (remedy(results) or "")) != goes_on


def test_nothing_hides_behind_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which PyTorch's convolutions are on GPUs unless they are told otherwise."""
    seen = []
    forward = MoCEIR.forward

    def noted(*arguments: Any, **more: Any) -> Any:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return forward(*arguments, **more)

    monkeypatch.setattr(MoCEIR, "forward", noted)
    before = torch.backends.cudnn.conv.fp32_precision
    found("routing_plan")
    assert {*seen} == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_too_little_memory_is_no_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(t: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    alter(monkeypatch, "pointwise_conv", fails)
    with pytest.raises(TooLittleMemory, match="not enough memory to check pointwise_conv: free"):
        found("pointwise_conv")


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no operator 'conv'; there are all, channel_attention"):
        found("conv")


def test_the_command(few: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_it_runs("cpu", "fft_attention")
    result = few("gated_feedforward", "window_fft_conv")
    assert result.exit_code == 0, result.output
    head, *lines, last = [line for line in result.output.splitlines() if line]
    assert head.split()[:4] == ["operator", "backend", "precision", "case"]
    assert len(lines) == 6 and last == "All 6 results are right."
    alter(monkeypatch, "gated_feedforward", lambda t: 2 * t)
    result = few("gated_feedforward", "window_fft_conv")
    assert result.exit_code == 1
    assert result.output.count("WRONG") == 2
    assert "Error: wrong on this machine: gated_feedforward (cpu, float32). " in result.output


def test_nothing_to_check_is_not_right(
    few: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "why_not", lambda *_: "not built")
    result = few(TOGETHER)
    assert result.exit_code == 1 and "no kernels run on cpu" in result.output


@pytest.mark.parametrize("words", [["check", TOGETHER], ["info"]])
def test_a_backend_that_cannot_run_is_no_unexpected_error(
    words: list[str], few: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.VARIABLE, "gated_feedforward=cuda")
    result = CliRunner().invoke(main, words)
    assert "unexpected" not in result.output
    assert "gated_feedforward: backend 'cuda' cannot run here" in result.output
    assert result.exit_code == (1 if words[0] == "check" else 0)
