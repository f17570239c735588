"""The configuration of a training run, as read from a YAML file and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from moceir.config import MoCEIRConfig, preset
from moceir.data.degradations import KINDS, parse
from moceir.errors import ConfigError, short
from moceir.training.loss import LOSSES, RELATIVE_FLOORS

PRECISIONS = ("32-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda")
SCHEDULES = ("cosine", "published")


@dataclass
class SetConfig:
    """One part of a training mixture: a published data set, a pair of folders, or clean images.

    Args:
        set: name of a set of ``moceir.data.datasets.TRAINING``, found below ``data.root``.
        clean: instead of ``set``: folder of clean images.
        degraded: folder of degraded images with the names of the clean ones.
        degradation: applied to clean images without degraded ones, such as ``noise:sigma=25``.
        label: name under which the experts of these images are counted; None: the data set's
            degradation, or the name of the degraded folder.
        repeat: how often each image occurs in an epoch.
    """

    set: str | None = None
    clean: Path | None = None
    degraded: Path | None = None
    degradation: str | None = None
    label: str | None = None
    repeat: int = 1

    def __post_init__(self) -> None:
        _at_least("data.mixture", self, repeat=1)
        _at_most("data.mixture", self, repeat=1_000_000)
        if (self.set is None) == (self.clean is None):
            raise ConfigError(
                "data.mixture: give each part either a set or a folder of clean images"
            )
        try:
            if self.degradation is not None:
                parse(self.degradation)
        except ValueError as error:
            raise ConfigError(f"data.mixture: degradation: {error}") from None


@dataclass(frozen=True)
class Share:
    """The patches of every step that one process handles.

    A step has ``accumulate`` passes, each over ``world`` processes with ``size`` patches. However
    a step is divided, its patches are the same.
    """

    size: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    @property
    def step(self) -> int:
        """Patches of a step."""
        return self.size * self.world * self.accumulate

    def offset(self, part: int) -> int:
        """Number of this process's first patch in pass ``part``, among those of the step."""
        return (part * self.world + self.rank) * self.size


@dataclass
class DataConfig:
    """Training images and their degradations.

    Args:
        train: folder of clean images, searched with its subfolders.
        mixture: instead of ``train``: data sets in fixed proportions, as for the published models.
        root: folder that holds the data sets of ``mixture``.
        validation: folder of clean images for validation; None: no validation.
        kinds: degradations to train for.
        max_mixture: maximum number of kinds in one image.
        mixed: share of the patches with several kinds, where ``max_mixture`` is above 1.
        clean: share of the patches that are left undegraded.
        night: share of the patches whose clean images are made night scenes, so that the network
            learns which dark images to leave dark; degradations follow.
        faded: likewise, share whose blacks are lifted as in a faded print, so that the network
            learns which pale images to leave pale.
        crop: side of a training patch, pixels.
        batch_size: patches of one step, over all processes and passes.
        validation_pictures: how many validation images to use, each with every kind.
        cache_mb: memory for decoded training images, MiB. The images of ``train`` are kept on
            the training device if all of them fit. Otherwise, and for ``mixture``, the reading
            processes keep those that they read first.
        workers: processes that read images ahead, per training process; 0: none. Unused if all
            images are on the device.
    """

    train: Path = Path("data/train")
    mixture: list[SetConfig] = field(default_factory=list)
    root: Path = Path("data")
    validation: Path | None = None
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    max_mixture: int = 3
    mixed: float = 0.5
    clean: float = 0.06
    night: float = 0.0
    faded: float = 0.0
    crop: int = 128
    batch_size: int = 8
    validation_pictures: int = 4
    cache_mb: int = 2000
    workers: int = 0

    def __post_init__(self) -> None:
        _at_least(
            "data", self, crop=8, batch_size=1, max_mixture=1, mixed=0, clean=0,
            night=0, faded=0, validation_pictures=1, cache_mb=0, workers=0,
        )  # fmt: skip
        _at_most("data", self, crop=4096, batch_size=100_000, max_mixture=len(KINDS), workers=1024)
        for name in ("mixed", "clean", "night", "faded"):
            share = getattr(self, name)
            if share > 1:
                raise ConfigError(f"data.{name} is {share}: give a share from 0 to 1")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            what = f"has {short(unknown[0])}" if unknown else "is empty"
            raise ConfigError(f"data.kinds {what}: choose some of {', '.join(KINDS)}")


@dataclass
class OptimizerConfig:
    """Optimiser, learning rate schedule and loss.

    Args:
        muon: Muon for matrices and AdamW for the rest (``MuonAdamW``); otherwise only AdamW.
        lr: learning rate at the end of the warm-up.
        warmup_steps: steps of linear warm-up.
        schedule: ``cosine``, which reaches zero at the last step; or ``published``, the published
            code's: constant within an epoch, 0 in the first, rising linearly to ``lr`` in the 15th,
            then a cosine with its minimum in the 150th, wherever the run ends. Needs ``epochs``.
        betas: decay of the running moments.
        weight_decay: as in AdamW.
        clip_norm: gradients are scaled down to this L2 norm.
        ema_decay: decay per step of the averaged weights, which are the result of the run.
        spectrum_weight: weight of the spectral L1 loss.
        auxiliary_weight: weight of the routers' auxiliary loss.
        loss: of an image's pixels and spectra, see ``restoration_loss``: ``l1`` (the paper's);
            ``l2``, which weighs heavy degradations most; ``log_l1``, which weighs slight ones as
            much as heavy ones; ``log_l2``, which does so with squared errors (PSNR); or
            ``relative`` and ``relative_l2``, which are ``l1`` and ``l2`` with all kinds of
            degradation weighed equally, see ``KindMeans``.
    """

    muon: bool = False
    lr: float = 2e-4
    warmup_steps: int = 500
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    spectrum_weight: float = 0.1
    auxiliary_weight: float = 0.01
    loss: str = "l1"

    def __post_init__(self) -> None:
        _at_least(
            "optimizer",
            self,
            lr=0,
            warmup_steps=0,
            weight_decay=0,
            clip_norm=0,
            ema_decay=0,
            spectrum_weight=0,
            auxiliary_weight=0,
        )
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"optimizer.schedule is {short(self.schedule)}: choose {', '.join(SCHEDULES)}"
            )
        if self.ema_decay >= 1:
            raise ConfigError(f"optimizer.ema_decay is {self.ema_decay}: give less than 1")
        if self.loss not in LOSSES:
            raise ConfigError(f"optimizer.loss is {short(self.loss)}: choose {', '.join(LOSSES)}")


@dataclass
class DistillConfig:
    """Teachers for knowledge distillation (Hinton et al. 2015).

    A patch with a teacher has the teacher's restoration as its target, instead of the clean patch.
    A specialist can teach a kind that the larger gradients of others would drown out, and its
    targets omit detail that cannot be restored. The weights that a run starts from, used as a
    teacher, prevent forgetting (Li and Hoiem 2016): gradients arise only where they are forgotten.

    Args:
        teachers: weights, as for ``moceir restore -m``, by the label of the patches that they
            teach: a kind of degradation, ``several`` for mixtures, or the label of a set.
        weight: of the loss of these patches, see ``restoration_loss``, relative to what the teacher
            changes: ``weight / (mean absolute change + 0.01)``. A hundredth of what JPEG lacks thus
            counts about as much as a hundredth of what a dark image lacks.
    """

    teachers: dict[str, str] = field(default_factory=dict)
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"distill.weight is {self.weight}: give more than 0")


@dataclass
class TrainingConfig:
    """A training run.

    Args:
        run: folder for checkpoints, curves, the configuration and the final weights. A run found
            there is resumed from its last checkpoint.
        preset: the network; ``model`` overrides individual fields of it.
        model: fields of ``MoCEIRConfig``, by name.
        weights: what a new run starts from, as for ``moceir restore -m``; None: random weights.
        data: images and degradations.
        optimizer: optimiser, schedule and loss.
        distill: teachers, and what they teach.
        steps: optimiser steps of the whole run.
        epochs: instead of ``steps``: passes over ``data.mixture``, in whole batches.
        expert_of: for the router ``supervised`` and for ``routing_warmup``: the expert (1 is the
            cheapest) of each degradation's label; labels that are not listed are assigned to the
            experts in turn.
        routing_warmup: number of first steps in which the routers learn ``expert_of``, as with
            ``supervised``, so that experts already differ when the router decides by itself.
        seed: of the weights, the patches, the degradations and the routing noise.
        precision: ``32-true`` or ``bf16-mixed``.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: processes on one machine, each with its device, which share a step's patches.
        nodes: number of machines; start the run on each with torchrun.
        accumulate: passes of a step, for batches that do not fit into memory.
        max_minutes: stop after this many minutes, with a checkpoint; repeat the command to resume.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between validations and their sample images.
        log_every: steps between points of the curves and checks that losses are finite. The host
            waits for the device only then, and for checkpoints and validations.
        cuda_graph: replay each step as one CUDA graph, which saves the host thousands of launches;
            None: where possible, which is with one process on a CUDA device, without
            ``accumulate`` and teachers.
    """

    run: Path = Path("runs/train")
    preset: str = "moce_ir_s"
    model: dict[str, object] = field(default_factory=dict)
    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    steps: int = 100_000
    epochs: int | None = None
    expert_of: dict[str, int] = field(default_factory=dict)
    routing_warmup: int = 0
    seed: int = 0
    precision: str = "bf16-mixed"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    accumulate: int = 1
    max_minutes: float | None = None
    checkpoint_every: int = 500
    validate_every: int = 1000
    log_every: int = 20
    cuda_graph: bool | None = None

    def __post_init__(self) -> None:
        _at_least("", self, steps=1, seed=0, checkpoint_every=1, validate_every=1, log_every=1)
        _at_least("", self, routing_warmup=0)
        _at_least("", self, devices=1, nodes=1, accumulate=1)
        _at_most("", self, devices=1024, nodes=100_000)
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {short(self.precision)}: choose {', '.join(PRECISIONS)}"
            )
        if self.accelerator not in ACCELERATORS:
            raise ConfigError(
                f"accelerator is {short(self.accelerator)}: choose {', '.join(ACCELERATORS)}"
            )
        parts = self.devices * self.nodes * self.accumulate
        if self.data.batch_size % parts:
            raise ConfigError(
                f"data.batch_size is {self.data.batch_size}: give a multiple of devices x nodes x "
                f"accumulate, which is {parts}"
            )
        if self.epochs is not None and (self.epochs < 1 or not self.data.mixture):
            raise ConfigError(f"epochs is {self.epochs}: give 1 or more, and a data.mixture")
        if self.distill.teachers and self.optimizer.loss in RELATIVE_FLOORS:
            raise ConfigError(
                f"optimizer.loss {self.optimizer.loss} and distill.teachers both weigh patches: "
                "with teachers choose another loss"
            )
        if self.epochs is None and self.optimizer.schedule == "published":
            raise ConfigError("optimizer.schedule published needs epochs: give them")
        experts = self.network().num_experts
        for label, expert in self.expert_of.items():
            if not 1 <= expert <= experts:
                raise ConfigError(f"expert_of: {label} has expert {expert}: give 1 to {experts}")

    def share(self, rank: int) -> Share:
        """The part of each step's patches that the process of this rank has."""
        world = self.devices * self.nodes
        return Share(
            self.data.batch_size // (world * self.accumulate), rank, world, self.accumulate
        )

    def why_no_graph(self, device: str) -> str | None:
        """Why a step on a device of this type cannot be a CUDA graph, or None if it can.

        Raises:
            ConfigError: it cannot, and ``cuda_graph`` asks for it.
        """
        reason = None
        if device != "cuda":
            reason = f"the device is {device}"
        elif self.devices * self.nodes > 1:
            reason = "several processes train together"
        elif self.accumulate > 1:
            reason = "a step has several passes (accumulate)"
        elif self.distill.teachers:
            reason = "there are teachers"
        if reason is not None and self.cuda_graph:
            raise ConfigError(f"cuda_graph is true, but {reason}: omit it")
        return "cuda_graph is false" if self.cuda_graph is False else reason

    def network(self) -> MoCEIRConfig:
        """The network's configuration: the preset with the fields of ``model``."""
        return preset(self.preset).replace(**self.model)


def _at_least(section: str, config: object, **limits: float) -> None:
    for name, limit in limits.items():
        value = getattr(config, name)
        if not value >= limit:  # nor NaN
            where = f"{section}.{name}" if section else name
            raise ConfigError(f"{where} is {value}: give at least {limit}")


def _at_most(section: str, config: object, **limits: int) -> None:
    for name, limit in limits.items():
        value = getattr(config, name)
        if value > limit:
            where = f"{section}.{name}" if section else name
            raise ConfigError(f"{where} is {value}: give at most {limit}")


def plain(config: TrainingConfig) -> dict[str, object]:
    """The configuration as plain values, for a checkpoint or a YAML file."""

    def convert(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: convert(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        return value

    return {name: value for name, value in convert(config).items()}  # type: ignore[attr-defined]
