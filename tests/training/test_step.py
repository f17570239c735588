"""A training step: nothing of it is read on the host, and a CUDA graph can hold it.

There is no GPU here. What a graph asks of a step is tested on a CPU instead: that it does the same
operations with the same constants on the same memory every time.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from moceir.data.patches import PatchSource
from moceir.errors import ConfigError
from moceir.training.config import DataConfig, DistillConfig, OptimizerConfig, TrainingConfig
from moceir.training.module import RestorationModule
from moceir.training.options import parse
from moceir.training.run import train
from moceir.training.step import WARM_UP, CudaGraphs, Inputs, TrainingStep
from tests.training.test_run import arguments, pictures

__all__ = ["pictures"]  # a fixture

NETWORK = {
    "dim": 8,
    "num_blocks": [1, 1],
    "num_dec_blocks": [2],
    "heads": [1, 1],
    "num_refinement_blocks": 0,
}


class Rerun(CudaGraphs):
    """Runs a captured step again where CUDA would replay it."""

    def __init__(self) -> None:
        self.captured = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        return work


def training_step(graphs: CudaGraphs | None, muon: bool, router: str) -> TrainingStep:
    config = TrainingConfig(
        preset="compact",
        model={**NETWORK, "router": router},
        data=DataConfig(batch_size=4, crop=16),
        optimizer=OptimizerConfig(
            muon=muon, lr=1e-2, warmup_steps=4, ema_decay=0.9, loss="relative" if muon else "l1"
        ),
        steps=30,
        precision="32-true",
    )
    torch.manual_seed(1)
    return TrainingStep(RestorationModule(config), graphs)


def batch(seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    degraded, clean = (torch.rand(4, 3, 16, 16, generator=generator) for _ in range(2))
    return Inputs(degraded, clean, torch.randint(8, (4,), generator=generator))


def tensors(step: TrainingStep) -> dict[str, Tensor]:
    """All that a step leaves behind."""
    found = {f"trained {k}": t for k, t in step.model.named_parameters()}
    found |= {f"averaged {k}": t for k, t in step.average.named_parameters()}
    for i, state in enumerate(step.optimizer.state.values()):
        found |= {f"optimizer {i} {k}": t for k, t in state.items()}
    found |= {"lr": step.lr, "values": step.values, "counts": step.counts}
    return found | {"means": step.means.values}


VARIANTS = pytest.mark.parametrize(
    ("muon", "router"), [(False, "complexity"), (True, "complexity"), (True, "supervised")]
)


@VARIANTS
def test_replayed_steps_equal_eager_ones(muon: bool, router: str) -> None:
    """Bit by bit, and no tensor that a graph would know by its address is exchanged."""
    graphs = Rerun()
    eager, replayed = training_step(None, muon, router), training_step(graphs, muon, router)
    places: dict[str, int] = {}
    for number in range(WARM_UP + 5):
        for step in (eager, replayed):
            step(number, [batch(number)])
        assert graphs.captured == (number >= WARM_UP)
        for key, tensor in tensors(eager).items():
            assert torch.equal(tensor, tensors(replayed)[key]), (number, key)
        now = {key: tensor.data_ptr() for key, tensor in tensors(replayed).items()}
        assert now == (places or now)
        places = now
    assert int(replayed.counts.sum()) == (WARM_UP + 5) * 4 * 2


def test_routers_are_taught_at_first() -> None:
    """The warm-up ends while a captured step is replayed, and that is seen."""
    steps = []
    for graphs in (None, Rerun()):
        step = training_step(graphs, False, "complexity")
        step.config = dataclasses.replace(step.config, routing_warmup=WARM_UP + 2)
        auxiliary = []
        for number in range(WARM_UP + 5):
            step(number, [batch(number)])
            auxiliary.append(step.values[1].item())
        steps.append((step, auxiliary))
    (eager, expected), (replayed, found) = steps
    assert found == expected
    for key, tensor in tensors(eager).items():
        assert torch.equal(tensor, tensors(replayed)[key]), key
    # A cross entropy of four experts is about log 4, the variation of their shares is not.
    taught = training_step(None, False, "supervised")
    for number in range(WARM_UP + 2):
        taught(number, [batch(number)])
        assert taught.values[1].item() == expected[number]
    taught(WARM_UP + 2, [batch(WARM_UP + 2)])
    assert taught.values[1].item() != expected[WARM_UP + 2]


class Trace(TorchDispatchMode):
    """The operations of a step: their constants, and by its storage each tensor that they read."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.made: dict[int, int] = {}  # by the place of its memory: its number
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith("profiler."):  # markers that a profiler reads
            return func(*args, **(kwargs or {}))
        flat, spec = tree_flatten((args, kwargs or {}))
        given = [v.untyped_storage().data_ptr() for v in flat if isinstance(v, Tensor)]
        described = [self._describe(v) if isinstance(v, Tensor) else repr(v) for v in flat]
        self.operations.append((str(func), str(spec), described))
        out = func(*args, **(kwargs or {}))
        for value in tree_flatten(out)[0]:
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in given:
                self.made[value.untyped_storage().data_ptr()] = self._count
                self._count += 1
        return out

    def _describe(self, tensor: Tensor) -> Any:
        place = tensor.untyped_storage().data_ptr()
        who = ("made", self.made[place]) if place in self.made else ("found", place)
        return who, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of a plan's values, for which a GPU is not waited for either."""
    module = importlib.import_module("moce_kernels.ops.grouped_experts")
    monkeypatch.setattr(module, "_check_plan", lambda *_: None)


WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select")


@VARIANTS
def test_a_step_is_the_same_operations_on_the_same_memory(
    muon: bool, router: str, as_on_a_gpu: None
) -> None:
    step = training_step(Rerun(), muon, router)
    for number in range(WARM_UP + 1):
        step(number, [batch(number)])
    traces = []
    for number in range(WARM_UP + 1, WARM_UP + 3):
        replay = step._replay
        assert replay is not None
        with Trace() as trace:
            replay()
        traces.append(trace.operations)
        step(number, [batch(number)])  # another learning rate, other inputs
    first, second = traces
    assert len(first) > 300
    for one, other in zip(first, second, strict=True):
        assert one == other
    names = {name.split(".")[1] for name, *_ in first}
    assert not names & set(WAITING)


def test_the_trace_finds_what_a_graph_would_keep() -> None:
    """A number from the host, and a tensor that takes another's place."""
    x = torch.ones(3)

    def traced(work: Callable[[], Any]) -> list[Any]:
        with Trace() as trace:
            work()
        return trace.operations

    assert traced(lambda: x * 2) == traced(lambda: x * 2)
    assert traced(lambda: x * 2) != traced(lambda: x * 3)
    y = torch.ones(3)
    assert traced(lambda: x * 2) != traced(lambda: y * 2)
    assert any("_local_scalar_dense" in name for name, *_ in traced(lambda: x.sum().item()))


class Reads(TorchDispatchMode):
    """Counts values that come to the host, by the step after which they do."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.counting = 0, True
        self.of_step: dict[int, int] = {}

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count()
            return function(*args, **more)

        return call

    def count(self) -> None:
        if self.counting:
            self.of_step[self.step] = self.of_step.get(self.step, 0) + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).split(".")[1] in WAITING:
            self.count()
        return func(*args, **(kwargs or {}))


def test_values_are_read_every_twentieth_step(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, as_on_a_gpu: None
) -> None:
    reads = Reads()
    call = TrainingStep.__call__

    def uncounted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            reads.counting = False
            try:
                return function(*args)
            finally:
                reads.counting = True

        return call

    def step(self: TrainingStep, number: int, parts: Any) -> None:
        reads.step = number + 1
        call(self, number, parts)

    # Crops and degradations are planned on the host; tests/data has that nothing waits for them.
    monkeypatch.setattr(PatchSource, "batch", uncounted(PatchSource.batch))
    monkeypatch.setattr(TrainingStep, "__call__", step)
    for name in ("tolist", "numpy", "cpu"):  # which are no operations, or none on a CPU
        monkeypatch.setattr(Tensor, name, reads.counted(getattr(Tensor, name)))
    model = '{"dim": 8, "num_blocks": [1, 1], "num_dec_blocks": [1], "heads": [1, 1], '
    model += '"num_refinement_blocks": 0}'
    words = ["--model", model, "--data.crop", "16", "--steps", "50", "--checkpoint_every", "40"]
    config = parse([w for w in arguments(tmp_path / "run", pictures, *words) if w])
    with reads:
        train(config)
    assert set(reads.of_step) - {0} == {20, 40, 50}


def test_a_step_that_cannot_be_captured_says_what_to_do() -> None:
    class Refusing(Rerun):
        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("operation not permitted when stream is capturing")

    step = training_step(Refusing(), False, "complexity")
    for number in range(WARM_UP):
        step(number, [batch(number)])
    with pytest.raises(ConfigError, match=r"not permitted .*cuda_graph: false"):
        step(WARM_UP, [batch(WARM_UP)])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_first_step_that_is_not_finite_is_named(what: str) -> None:
    step = training_step(None, False, "complexity")
    step(0, [batch(0)])
    assert step.broken[0].isinf()
    broken = batch(1)
    if what == "loss":
        broken.clean[0, 0, 0, 0] = float("nan")
    else:
        step.model.output.weight.register_hook(lambda g: g * float("inf"))
    step(1, [broken])
    step(2, [batch(2)])
    number, loss, norm = step.broken.tolist()
    assert number == 1
    assert (loss != loss) == (what == "loss") and norm not in (0, 1)


def test_means_of_losses_are_kept_by_kind() -> None:
    """A run goes on with other kinds: those that it has had keep their means."""
    step = training_step(None, True, "complexity")
    step(0, [batch(0)])
    step.means.values.copy_(torch.arange(18).view(2, 9) / 10)
    state = step.state_dict()
    labels = step.module.labels
    assert state["loss_means"][labels[3]] == pytest.approx([0.3, 1.2])
    state["loss_means"] = {labels[3]: [0.5, 0.25], "dust": [0.7, 0.1]}
    step.load_state_dict(state)
    expected = torch.zeros(2, 9)
    expected[:, 3] = torch.tensor([0.5, 0.25])
    assert torch.equal(step.means.values, expected)
    state["loss_means"] = {labels[2]: 0.5}  # of the loss alone, as earlier versions kept it
    step.load_state_dict(state)
    assert step.means.values[:, 2].tolist() == [0.5, 0]


def test_labels_that_no_patch_has_are_named() -> None:
    config = TrainingConfig(preset="compact", model=NETWORK, expert_of={"noize": 2})
    with pytest.raises(ConfigError, match="expert_of: 'noize' is none of noise"):
        RestorationModule(config)


def test_where_a_step_can_be_a_graph() -> None:
    def why(device: str = "cuda", **values: Any) -> str | None:
        return TrainingConfig(preset="compact", **values).why_no_graph(device)

    assert why() is None and why(cuda_graph=True) is None
    assert why("cpu") == "the device is cpu"
    assert why(cuda_graph=False) == "cuda_graph is false"
    assert "processes" in str(why(devices=2))
    assert "passes" in str(why(accumulate=2))
    assert "teachers" in str(why(distill=DistillConfig({"rain": "compact"})))
    with pytest.raises(ConfigError, match="cuda_graph is true, but the device is cpu"):
        why("cpu", cuda_graph=True)
