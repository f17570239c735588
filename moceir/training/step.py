"""One training step, of which nothing is read on the host, and the same step as one CUDA graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moceir.errors import CheckpointError, ConfigError
from moceir.model.routing import supervised
from moceir.training.loss import RELATIVE_FLOORS, KindMeans, image_losses
from moceir.training.module import RestorationModule, psnr
from moceir.training.optimizer import is_matrix, learning_rate, make_optimizer
from moceir.weights.names import current_names

WARM_UP = 3
"""Steps that run as they are before one is captured: they load libraries, compile kernels, and make
the optimiser's state."""


class Inputs(NamedTuple):
    """What one pass through the network takes; b patches."""

    degraded: Tensor
    """(b, 3, H, W) float32 in [0, 1]."""
    clean: Tensor
    """Likewise."""
    labels: Tensor
    """(b,) int64: what is wrong with each patch, an index of ``RestorationModule.labels``."""
    target: Tensor | None = None
    """Likewise (b, 3, H, W), where teachers say what patches should become; None: ``clean``."""
    taught: Tensor | None = None
    """(b,) float32: the weights of the patches that have a teacher."""


class CudaGraphs:
    """How a step becomes a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], None]) -> None:
        """``work`` as it is, on the stream of the capture: autograd remembers streams."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            # That the optimiser could be captured and is not, which it will be.
            warnings.filterwarnings("ignore", message=".*capturable=True")
            work()
        current.wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work`` as one launch; it is not run."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: one of the data loader's pins memory.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


class TrainingStep:
    """Network, loss, gradients, clipping, optimiser and averaged weights: one step of training.

    What is to be known of a step stays on its device until somebody reads it: ``values``,
    ``broken`` and ``counts``.

    With ``graphs`` the first steps run as they are, the next is captured, and it and all later ones
    are replayed. All that changes from step to step is in tensors that stay where they are: the
    inputs, the learning rate, the state of the random numbers.

    Args:
        module: what is trained, on the device to train on.
        graphs: how to capture a step; None: never. Steps with several passes, processes or
            teachers cannot be captured.
        network: ``module.model``, wrapped for several processes.
    """

    def __init__(
        self,
        module: RestorationModule,
        graphs: CudaGraphs | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.module, self.graphs = module, graphs
        self.config = module.config
        self.model = module.model
        self.network = network if network is not None else self.model
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        """The averaged weights, which are those that are kept."""
        pairs = zip(self.model.parameters(), self.average.parameters(), strict=True)
        trained = [(p, average) for p, average in pairs if p.requires_grad]
        self._trained = [p for p, _ in trained]
        self._averages: list[Tensor] = [average for _, average in trained]
        self.device = device = self._trained[0].device
        self.lr = torch.zeros((), device=device)
        self.optimizer = make_optimizer(
            self._trained, self.config.optimizer, self.lr, graphs is not None
        )
        self.values = torch.zeros(4, device=device)
        """Of the last step: loss, auxiliary loss, PSNR, norm of the gradient before clipping."""
        self.broken = torch.full((3,), float("inf"), dtype=torch.float64, device=device)
        """The first step whose loss or gradient is not finite, or infinity; the two values."""
        network_config = self.model.config
        blocks = sum(network_config.num_dec_blocks)
        shape = (len(module.labels), blocks, network_config.num_experts)
        self.counts = torch.zeros(shape, dtype=torch.int64, device=device)
        """(labels, D, n): patches that took each expert at each decoder block, since zeroed."""
        floor = RELATIVE_FLOORS.get(self.config.optimizer.loss, 0.0)
        self.means = KindMeans(len(module.labels), device, floor)
        self._number = torch.zeros((), dtype=torch.float64, device=device)
        self._block = torch.arange(blocks, device=device)[:, None, None]
        self._expert_of = torch.tensor(module.expert_targets(), device=device)
        self._static: Inputs | None = None
        self._replay: Callable[[], None] | None = None
        self._warm = 0
        self._routing_warmup = False

    def __call__(self, step: int, parts: Sequence[Inputs]) -> None:
        """Train on the passes of a step; steps are numbered from 0."""
        self.lr.fill_(learning_rate(self.config, step))
        self._number.fill_(step)
        # Routing noise, too, is a function of the seed and the step.
        torch.manual_seed(self.config.seed + step)
        self._warm_up_routing(step < self.config.routing_warmup)
        if self.graphs is None:
            self._run(parts, step == 0)
        elif self._warm < WARM_UP:
            self.graphs.warm_up(lambda: self._run(parts, step == 0))
            self._warm += 1
        else:
            self._replayed(*parts)

    def _warm_up_routing(self, on: bool) -> None:
        if on == self._routing_warmup:
            return
        self._routing_warmup = on
        self._replay = None  # a captured step has the other loss

    def _replayed(self, inputs: Inputs) -> None:
        if self._static is None or self._replay is None:
            assert self.graphs is not None
            copies: Any = (t if t is None else t.clone() for t in inputs)
            self._static = static = Inputs(*copies)
            try:
                self._replay = self.graphs.capture(lambda: self._run([static], False))
            except RuntimeError as error:
                raise ConfigError(
                    f"the training step cannot be captured as a CUDA graph ({error}): set "
                    "cuda_graph: false"
                ) from error
        for place, given in zip(self._static, inputs, strict=True):
            if place is not None and given is not None:
                place.copy_(given)
        self._replay()

    def _run(self, parts: Sequence[Inputs], first: bool) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.values.zero_()
        for i, inputs in enumerate(parts):
            with self._alone(i + 1 < len(parts)):
                self._pass(inputs, len(parts))
        norm = nn.utils.clip_grad_norm_(self._trained, self.config.optimizer.clip_norm)
        self.values[3].copy_(norm)
        self._remember_if_broken()
        self.optimizer.step()
        # The average starts with the weights after the first step.
        weight = 1.0 if first else 1 - self.config.optimizer.ema_decay
        current: list[Tensor] = [p.detach() for p in self._trained]
        torch._foreach_lerp_(self._averages, current, weight)

    def _pass(self, inputs: Inputs, passes: int) -> None:
        options = self.config.optimizer
        with self.autocast():
            taught = self._routing_warmup or self.model.config.router == "supervised"
            targets = self._expert_of[inputs.labels]
            with supervised(self.model, targets) if taught else nullcontext():
                restored, routing = self.network(inputs.degraded, return_routing=True)
        target = inputs.clean if inputs.target is None else inputs.target
        losses = image_losses(
            restored, target, options.spectrum_weight, options.loss, inputs.taught
        )
        if options.loss in RELATIVE_FLOORS:
            damage = (inputs.degraded - inputs.clean).abs().flatten(1).mean(1)
            losses = self.means.relative(losses, damage, inputs.labels)
        loss = losses.mean() + options.auxiliary_weight * routing.aux_loss
        (loss / passes).backward()
        with torch.no_grad():
            quality = psnr(restored, inputs.clean).mean()
            found = torch.stack([loss.detach(), routing.aux_loss.detach().float(), quality])
            self.values[:3] += found / passes
            _, blocks, experts = self.counts.shape
            taken = inputs.labels[:, None] * blocks + self._block
            taken = (taken * experts + routing.expert).flatten()
            self.counts.view(-1).scatter_add_(0, taken, torch.ones_like(taken))

    def _remember_if_broken(self) -> None:
        """The first step that is not finite; it spoils the weights and all that follow."""
        loss, norm = self.values[0].double(), self.values[3].double()
        new = ~(loss.isfinite() & norm.isfinite()) & self.broken[0].isinf()
        self.broken.copy_(torch.where(new, torch.stack([self._number, loss, norm]), self.broken))

    def _alone(self, more: bool) -> Any:
        """Processes exchange gradients in the last pass of a step."""
        wrapped = isinstance(self.network, DistributedDataParallel)
        return self.network.no_sync() if wrapped and more else nullcontext()  # type: ignore[operator]

    def autocast(self) -> torch.autocast:
        """The precision of the run."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16-mixed"
        )

    def state_dict(self) -> dict[str, Any]:
        """Of a checkpoint: the averaged weights, the trained ones, the optimiser's state, and the
        mean loss and damage of each kind."""
        return {
            "state_dict": {f"model.{k}": t for k, t in self.average.state_dict().items()},
            "current_model_state": {f"model.{k}": t for k, t in self.model.state_dict().items()},
            "optimizer_states": [self.optimizer.state_dict()],
            "loss_means": dict(zip(self.module.labels, self.means.values.T.tolist(), strict=True)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, with the options of this run's configuration.

        Raises:
            CheckpointError: it is of another network or optimiser.
        """
        if self._replay is not None:
            raise RuntimeError("a captured step cannot be given other tensors")
        try:
            for model, part in (
                (self.average, state["state_dict"]),
                (self.model, state["current_model_state"]),
            ):
                model.load_state_dict(_of_model(part))
            means = state.get("loss_means", {})
            self.means.values.zero_()
            for values, label in zip(self.means.values.T, self.module.labels, strict=True):
                # Older checkpoints have no means, or those of the loss alone.
                found = torch.as_tensor(means.get(label, 0.0)).flatten()
                values[: len(found)] = found
            # In the order that the tensors have in the file, which may be of an earlier version.
            moments = state["optimizer_states"][0]["state"]
            theirs = self._numbers(_of_model(state["current_model_state"]))
            ours = self._numbers(self.model.state_dict())
            moments = {ours[name]: moments[n] for name, n in theirs.items() if n in moments}
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
                for p in group["params"]:
                    self._lay_out(p, group.get("momentum") is not None)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit this network and optimiser ({error}): set "
                "optimizer.muon as it was, or choose another --run"
            ) from error

    def _numbers(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """The number by which the optimiser's state has each trained tensor of a state_dict."""
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        names = [name for name in state if name in trained]
        if self.config.optimizer.muon:  # matrices first
            names.sort(key=lambda name: not is_matrix(state[name]))
        return {name: number for number, name in enumerate(names)}

    def _lay_out(self, p: nn.Parameter, muon: bool) -> None:
        """State as kernels for all parameters at once ask for: laid out as the parameter is."""
        state = self.optimizer.state[p]
        names = {"step", "momentum"} if muon else {"step", "exp_avg", "exp_avg_sq"}
        if state and set(state) != names:
            raise KeyError(f"{', '.join(state)} of a parameter in place of {', '.join(names)}")
        for name in set(state) - {"step"}:
            state[name] = torch.empty_like(p).copy_(state[name])


def _of_model(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint of any version, by today's names."""
    return current_names({name.removeprefix("model."): t for name, t in part.items()})
