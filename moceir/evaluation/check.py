"""Whether the kernels compute on this machine what plain PyTorch computes.

A small network with random weights restores random images forward and backward: once in float64 by
plain PyTorch, which is exact here; once by plain PyTorch in the precision that is checked, whose
errors show what rounding costs; and then with one operator by one of its backends, and everything
else in plain PyTorch, for each of them in turn. The errors of the restored images, and of the
gradients of each kind of parameter, may be twice those of plain PyTorch.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moce_kernels import (
    depthwise_conv,
    fft_attention,
    gated_depthwise_conv,
    registry,
    routing_plan,
    use_backends,
    window_fft_conv,
)
from moce_kernels.backends import BACKENDS, why_not
from moce_kernels.failures import BackendUnavailableError, KernelUnavailableError
from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError, TooLittleMemory, first_line
from moceir.inference.memory import ran_out
from moceir.model import MoCEIR
from moceir.model.layers import channels_last
from moceir.model.network import OPERATORS
from moceir.model.routing import BlockRouting, Router, routers

ALLOWED = 2.0
"""Times the error of plain PyTorch."""

DRAWS = 8
"""Of random numbers, for what exceeds that with the first."""

FLOOR = {torch.float32: 3e-7, torch.bfloat16: 2e-4, torch.float16: 3e-5}
"""Relative errors that are rounding, whatever plain PyTorch's are."""

TOGETHER = "all"
"""All operators, each by the backend that it has by default."""


class Finding(NamedTuple):
    """What became of one operator by one backend, in one precision."""

    operator: str
    backend: str
    precision: str
    case: str
    """Of what: the network's channels, the window."""
    worst: str = "output"
    """The result with the largest error beside what is allowed: the output, or a kind of
    parameter, whose gradient it is."""
    error: float = math.inf
    """Relative to the exact result, in the L2 norm."""
    share: float = math.inf
    """Of the error that is allowed."""
    problem: str | None = None
    """The error that was raised instead of a result."""

    @property
    def right(self) -> bool:
        return self.share <= 1


Results = dict[str, Tensor]


class Work(NamedTuple):
    operators: tuple[str, ...]
    """What it calls."""
    case: str
    """Of what."""
    run: Callable[[torch.dtype, int], Results]
    """The results with activations of a dtype, drawn from a seed, in float64 on the host."""


def check_kernels(
    device: torch.device,
    precisions: Sequence[str],
    operators: Sequence[str] = (),
    configs: Sequence[MoCEIRConfig] = (),
    size: tuple[int, int] = (37, 50),
) -> Iterator[Finding]:
    """Each operator by each backend that runs here, and all together as they run by default.

    An error that leaves the GPU unusable ends it.

    Args:
        device: where to run.
        precisions: of ``moceir.config.PRECISIONS``.
        operators: these alone; ``TOGETHER`` stands for all together.
        configs: of the networks that are checked, instead of two small ones.
        size: height and width of the images, of which there are as many as experts.

    Raises:
        ConfigError: an unknown operator.
        BackendUnavailableError: a backend that MOCE_KERNELS_BACKEND asks for cannot run.
        TooLittleMemory: of the device.
    """
    for name in operators:
        if name not in (TOGETHER, *registry.names()):
            known = ", ".join((TOGETHER, *registry.names()))
            raise ConfigError(f"no operator {name!r}; there are {known}", "operators")
    works = [_network(each, size, device) for each in configs or map(_small, (16, 48))]
    if not configs:
        works += _building_blocks(device)
    for precision in precisions:
        dtype = getattr(torch, precision)
        for work in works:
            chosen = [o for o in work.operators if o in operators or not operators]
            runs = [(o, b) for o in chosen for b in _backends(o, device, dtype)]
            if not runs:
                continue
            expected = [_expected(work, dtype, 0)]
            for operator, backend in runs:
                found = _checked(Finding(operator, backend, precision, work.case), work, expected)
                yield found
                if _unusable(found):
                    return


def remedy(found: Sequence[Finding]) -> str | None:
    """What to do about the findings that are not right; None: all are."""
    wrong = [f for f in found if not f.right]
    if not wrong:
        return None
    broken = {(f.operator, f.backend) for f in wrong}
    settings = []
    for operator in sorted({name for name, _ in broken} - {TOGETHER}):
        right = [
            f.backend
            for f in found
            if f.operator == operator and (operator, f.backend) not in broken
        ]
        settings.append(f"{operator}={right[0] if right else 'reference'}")
    what = ", ".join(sorted({f"{f.operator} ({f.backend}, {f.precision})" for f in wrong}))
    text = (
        f"wrong on this machine: {what}. To restore and train without these kernels, set "
        f'MOCE_KERNELS_BACKEND="{",".join(settings) or "reference"}". Please report it, with the '
        "lines above and the output of moceir info"
    )
    if _unusable(found[-1]):
        text += (
            ". After this error nothing more can be run on the GPU by this process, and what would "
            "have come next was not checked: name other operators to go on with them"
        )
    return text


def _unusable(finding: Finding) -> bool:
    """Whether nothing else can run on the GPU after it: not where a kernel does not load."""
    problem = finding.problem or ""
    recovers = problem.startswith(KernelUnavailableError.__name__)
    return not recovers and any(text in problem for text in ("CUDA error", "Triton Error [CUDA]"))


def _small(dim: int) -> MoCEIRConfig:
    """A network of ``dim``, twice, four and eight times as many channels."""
    return MoCEIRConfig(
        dim=dim, num_blocks=(1, 1, 1, 1), num_dec_blocks=(1, 1, 1), num_refinement_blocks=1
    )


def _backends(operator: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    if operator == TOGETHER:
        return ["default"]
    fast = [b for b in BACKENDS if b != "reference"]
    return [b for b in fast if why_not(b, operator, device, dtype) is None]


class Expected(NamedTuple):
    exact: Results
    plain: Results


def _expected(work: Work, dtype: torch.dtype, seed: int) -> Expected:
    with use_backends("reference"):
        return Expected(work.run(torch.float64, seed), work.run(dtype, seed))


def _checked(finding: Finding, work: Work, expected: list[Expected]) -> Finding:
    """The finding of an operator by a backend. ``expected``, of the seeds from 0 on, grows.

    Rounding errors of few numbers are small by chance now and then, plain PyTorch's too. What
    exceeds them is therefore drawn again, some times, and compared by the root mean squares.
    """
    dtype = getattr(torch, finding.precision)

    def errors(seed: int) -> dict[str, tuple[float, float]]:
        """Ours and plain PyTorch's of each result."""
        if seed == len(expected):
            expected.append(_expected(work, dtype, seed))
        exact, plain = expected[seed]
        with _alone(finding.operator, finding.backend):
            ours = work.run(dtype, seed)
        return {k: (_error(ours[k], t), _error(plain[k], t)) for k, t in exact.items()}

    def share(errors: tuple[float, float]) -> float:
        return errors[0] / (ALLOWED * errors[1] + FLOOR[dtype])

    try:
        found = errors(0)
        if any(share(pair) > 1 for pair in found.values()):
            draws = [found, *map(errors, range(1, DRAWS))]
            found = {name: _root_mean_square([draw[name] for draw in draws]) for name in found}
    except RuntimeError as error:
        kernel = isinstance(error, KernelUnavailableError)
        if isinstance(error, BackendUnavailableError) and not kernel:
            raise  # what the environment asks for
        if ran_out(error):
            need = f"there is not enough memory to check {finding.operator}"
            raise TooLittleMemory(need, "free some, or choose another device", "device") from error
        return finding._replace(problem=f"{type(error).__name__}: {first_line(error)}")
    if not all(math.isfinite(plain) for _, plain in found.values()):
        return finding._replace(problem="what plain PyTorch computes is not finite")
    worst = max(found, key=lambda name: share(found[name]))
    return finding._replace(worst=worst, error=found[worst][0], share=share(found[worst]))


def _alone(operator: str, backend: str) -> contextlib.AbstractContextManager[None]:
    """One operator by a backend, and everything else in plain PyTorch."""
    if operator == TOGETHER:
        return contextlib.nullcontext()
    return use_backends("reference", **{operator: backend})


def _error(a: Tensor, b: Tensor) -> float:
    """Of a, relative to b, in the L2 norm."""
    error = float((a - b).norm() / b.norm())
    return error if math.isfinite(error) else math.inf


def _root_mean_square(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of ours, and of plain PyTorch's."""
    ours, plain = (math.sqrt(sum(e**2 for e in of) / len(of)) for of in zip(*errors, strict=True))
    return ours, plain


# --- what is computed ----------------------------------------------------------------------------


def _network(config: MoCEIRConfig, size: tuple[int, int], device: torch.device) -> Work:
    """Restored images, and gradients by kinds of parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MoCEIR(config).to(device).train()
    experts = config.num_experts
    for router in routers(model):
        # Each image takes another expert, whatever the rounding of its logits.
        router.register_forward_hook(_steered(2.0 * torch.eye(experts, device=device)))
        router.noise = "never"

    def run(dtype: torch.dtype, seed: int) -> Results:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(experts, 3, *size, generator=generator).to(device, wide)
        upstream = torch.randn(images.shape, generator=generator).to(device)
        model.to(wide).zero_grad(set_to_none=True)
        for router in routers(model):
            router.float()  # they decide in float32 whatever the precision around them
        with _full_convolutions():
            with torch.autocast(device.type, dtype, enabled=dtype.itemsize == 2):
                restored, routing = model(images, return_routing=True)
            ends = [restored, routing.aux_loss]
            torch.autograd.backward(ends, [upstream.to(restored.dtype), torch.ones_like(ends[1])])
        found = defaultdict(list)
        for name, p in model.named_parameters():
            if p.grad is not None:
                found[_kind(name)].append(p.grad.double().flatten().cpu())
        results = {name: torch.cat(gradients) for name, gradients in found.items()}
        return {"output": restored.detach().double().cpu(), **results}

    return Work((TOGETHER, *OPERATORS), f"{config.dim} channels", run)


@contextlib.contextmanager
def _full_convolutions() -> Iterator[None]:
    """PyTorch's convolutions of float32 in full. On GPUs they are in TF32 by default, beside whose
    errors those of the kernels would not show."""
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


def _kind(name: str) -> str:
    """What a parameter is called in the layer that it belongs to. Of temperatures, which are few,
    all together: of few numbers the rounding errors are small by chance now and then, plain
    PyTorch's too."""
    *_, layer, own = [part for part in name.split(".") if not part.isdigit()]
    return own if own == "temperature" else f"{layer}.{own}"


def _steered(wanted: Tensor) -> Callable[[nn.Module, Any, BlockRouting], BlockRouting]:
    def hook(module: nn.Module, inputs: Any, made: BlockRouting) -> BlockRouting:
        assert isinstance(module, Router)
        logits = wanted + 0.1 * made.logits.tanh()
        return BlockRouting(routing_plan(logits, module.top_k), logits, logits, module)

    return hook


# --- building blocks, which the network's operators contain --------------------------------------


def _building_blocks(device: torch.device) -> Iterator[Work]:
    images, channels = (2, 40, 37, 53), (40,)
    taps, wide_taps = (40, 1, 3, 3), (40, 1, 7, 7)
    yield _call(depthwise_conv, "3 x 3", [images, taps, channels], device)
    yield _call(depthwise_conv, "7 x 7", [images, wide_taps, channels], device)
    yield _call(gated_depthwise_conv, "3 x 3", [images, taps, channels], device)
    for window in (4, 8, 16, 32):
        case = f"window {window}"
        yield _call(window_fft_conv, case, [images] * 2, device, window=window)
        shapes = [images] * 3 + [channels] * 2
        yield _call(fft_attention, case, shapes, device, window=window)


def _call(
    operator: Callable[..., Tensor],
    case: str,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    **more: int,
) -> Work:
    """Of random tensors, the first of which are activations, of one shape."""

    def run(dtype: torch.dtype, seed: int) -> Results:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        generator = torch.Generator().manual_seed(seed)
        leaves = []
        for shape in shapes:
            t = torch.randn(shape, generator=generator)
            leaves.append(
                channels_last(t.to(device, dtype)) if shape == shapes[0] else t.to(device, wide)
            )
        out = operator(*[leaf.requires_grad_() for leaf in leaves], **more)
        upstream = torch.randn(out.shape, generator=generator)
        gradients = torch.autograd.grad(out, leaves, channels_last(upstream.to(out)))
        results = {f"gradient of argument {i + 1}": g for i, g in enumerate(gradients)}
        return {name: t.detach().double().cpu() for name, t in {"output": out, **results}.items()}

    return Work((operator.__name__,), case, run)
