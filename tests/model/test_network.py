"""What the network promises beyond the golden numbers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from moce_kernels import backends, channel_attention
from moceir.config import MoCEIRConfig
from moceir.model import MoCEIR, layers
from moceir.model.attention import PreNormAttention, SharedExpert
from moceir.model.experts import ExpertLayer, change_by_experts
from moceir.model.feedforward import GatedFeedForward
from moceir.model.layers import ChannelNorm, Conv3x3, PointwiseConv, ProjectedDepthwiseConv
from tests.published_weights import TINY


@pytest.fixture(scope="module")
def model() -> MoCEIR:
    torch.manual_seed(0)
    return MoCEIR(TINY).eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("top_k", "expert_path"), [(1, False), (2, False), (1, True), (2, True)])
def test_a_batch_equals_its_images_one_by_one(top_k: int, expert_path: bool) -> None:
    torch.manual_seed(1)
    model = MoCEIR(TINY.replace(top_k=top_k, expert_path=expert_path)).eval()
    # Content and scale differ, so that the images take different experts.
    x = images(8, 3, 75, 101) * torch.linspace(0.02, 1, 8)[:, None, None, None]
    batch, routing = model(x, return_routing=True)
    assert routing.expert.shape == routing.gate.shape == (3, 8, top_k)
    for i in range(8):
        single, single_routing = model(x[i : i + 1], return_routing=True)
        assert torch.equal(single_routing.expert[:, 0], routing.expert[:, i])
        torch.testing.assert_close(single[0], batch[i], rtol=0, atol=1e-5)


def test_a_batch_takes_different_experts() -> None:
    torch.manual_seed(0)
    model = MoCEIR(TINY).eval()
    # Random routers hardly tell images apart: give them the first pooled channels to go by.
    for name, parameter in model.named_parameters():
        if name.endswith("router.from_features.weight"):
            parameter.data = 30 * torch.randn_like(parameter)
    x = images(8, 3, 75, 101) * torch.linspace(0, 1, 8)[:, None, None, None]
    with torch.no_grad():
        batch, routing = model(x, return_routing=True)
        singles = torch.cat([model(one[None]) for one in x])
    assert len(routing.expert.unique()) > 1
    torch.testing.assert_close(singles, batch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (7, 8), (33, 31), (64, 64)])
@pytest.mark.parametrize("training", [False, True])
def test_any_size(model: MoCEIR, size: tuple[int, int], training: bool) -> None:
    model.train(training)
    try:
        y, routing = model(images(2, 3, *size), return_routing=True)
    finally:
        model.eval()
    assert y.shape == (2, 3, *size)
    assert torch.isfinite(y).all()
    assert torch.isfinite(routing.aux_loss)


def test_padding_reflects_and_is_cropped(model: MoCEIR) -> None:
    x = images(1, 3, 61, 90)
    padded = model.pad(x)
    assert padded.shape == (1, 3, 64, 96)
    assert torch.equal(padded[..., :61, :90], x)
    assert torch.equal(padded[..., 61:, :90], x[..., 57:60, :].flip(-2))
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(padded)[..., :61, :90])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 8), "shape"),
        ((1, 1, 8, 8), "shape"),
        ((1, 4, 8, 8), "shape"),
        ((1, 3, 0, 8), "shape"),
    ],
)
def test_wrong_shapes_are_named(model: MoCEIR, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_wrong_dtypes_are_named(model: MoCEIR, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="floating point"):
        model(torch.zeros(1, 3, 8, 8, dtype=dtype))


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = MoCEIR(TINY.replace(top_k=4)).train()
    y, routing = model(images(2, 3, 32, 32), return_routing=True)
    (y.square().mean() + routing.aux_loss).backward()
    for name, parameter in model.named_parameters():
        if name == "frequency_embedding.high_pass.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def _router_gradient(config: MoCEIRConfig) -> float:
    """Of the reconstruction loss, relative to the whole gradient."""
    torch.manual_seed(0)
    model = MoCEIR(config).train()
    x = images(4, 3, 32, 32)
    (model(x) - images(4, 3, 32, 32, seed=1)).abs().mean().backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    of = [g.flatten() for n, g in named.items() if ".router." in n]
    return float(torch.cat(of).norm() / torch.cat([g.flatten() for g in named.values()]).norm())


def test_the_expert_path_trains_the_router() -> None:
    """The query of the cross attention is normalised, and a gate's scale with it."""
    published, with_path = (_router_gradient(TINY.replace(expert_path=p)) for p in (False, True))
    assert with_path > 1e4 * published


def test_experts_of_the_expert_path_change_their_input_from_the_start() -> None:
    """By a part that training can see. With the published modulation it is under a hundredth."""

    def changes(expert_path: bool) -> list[float]:
        torch.manual_seed(0)
        model = MoCEIR(TINY.replace(expert_path=expert_path)).eval()
        found = []

        def record(layer: ExpertLayer, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
            (x, _, _), (routed, routing) = inputs, outputs
            change = change_by_experts(routed, x, routing.plan.gate)
            found.append(float(change.norm() / x.norm()))

        for module in model.modules():
            if isinstance(module, ExpertLayer):
                module.register_forward_hook(record)
        with torch.no_grad():
            model(images(2, 3, 64, 64))
        return found

    assert max(changes(False)) < 0.01
    assert min(changes(True)) > 0.05


def test_unfrozen_high_pass_learns() -> None:
    model = MoCEIR(TINY.replace(freeze_high_pass=False)).train()
    y, routing = model(images(2, 3, 32, 32), return_routing=True)
    (y.square().mean() + routing.aux_loss).backward()
    grad = model.frequency_embedding.high_pass.weight.grad
    assert grad is not None and grad.abs().sum() > 0


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(model: MoCEIR, precision: torch.dtype) -> None:
    x = images(2, 3, 40, 48)
    with torch.no_grad():
        expected, routing = model(x, return_routing=True)
        with torch.autocast("cpu", precision):
            y, cast_routing = model(x, return_routing=True)
    assert cast_routing.gate.dtype == torch.float32
    same = (routing.expert == cast_routing.expert).all(dim=(0, 2))
    assert same.any()
    assert (y - expected)[same].abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_routing_noise_policies() -> None:
    def gates(noise: str, training: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = MoCEIR(TINY.replace(routing_noise=noise)).train(training)
        x = images(2, 3, 16, 16)
        return [model(x, return_routing=True)[1].gate for _ in range(2)]

    for noise, training, random in [
        ("train", True, True),
        ("train", False, False),
        ("always", True, True),
        ("always", False, True),
        ("never", True, False),
        ("never", False, False),
    ]:
        first, second = gates(noise, training)
        assert torch.equal(first, second) != random, (noise, training)


def test_names_round_trip_through_the_configuration() -> None:
    config = MoCEIRConfig(dim=24, num_experts=3, heads=(1, 1, 2, 4), router="balance")
    assert MoCEIRConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
def test_shuffles_of_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of PyTorch, but channels-last in memory, forward and backward, by a single copy."""
    monkeypatch.setattr(layers, "_on_gpu", lambda x: True)
    x = layers.channels_last(torch.randn(2, 12, 6, 10)).requires_grad_()
    ours, plain = getattr(layers, name)(x), getattr(F, name)(x, 2)
    grad = layers.channels_last(torch.randn_like(plain))
    assert torch.equal(ours, plain)
    (dx,) = torch.autograd.grad(ours, x, grad)
    assert torch.equal(dx, torch.autograd.grad(plain, x, grad)[0])
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)


def test_means_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of PyTorch, with a gradient that takes no memory for each pixel."""
    monkeypatch.setattr(layers, "_on_gpu", lambda x: True)
    x = layers.channels_last(torch.randn(2, 12, 6, 10, dtype=torch.bfloat16)).requires_grad_()
    ours, plain = layers.pooled(x, torch.float32), x.mean(dim=(2, 3), dtype=torch.float32)
    assert torch.equal(ours, plain)
    grad = torch.randn_like(plain)
    (dx,) = torch.autograd.grad(ours, x, grad)
    assert torch.equal(dx, torch.autograd.grad(plain, x, grad)[0])
    assert dx.untyped_storage().nbytes() == 2 * 12 * 2
    # As the reference, which forward-mode derivatives and torch.func take.
    means, x = functools.partial(layers.pooled, dtype=torch.float32), x.detach()
    assert torch.equal(torch.func.jvp(means, (x,), (x,))[1], plain)
    assert torch.equal(torch.func.vmap(means)(x[:, None])[:, 0], plain)
    # And in one graph of torch.compile, which takes no forward-mode derivative.
    compiled = torch.compile(means, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x.requires_grad_()), plain)


def norm_of_chance(dim: int) -> ChannelNorm:
    norm = ChannelNorm(dim)
    norm.weight.data, norm.bias.data = torch.randn(2, dim)
    return norm


@torch.no_grad()
def test_a_norm_by_itself_is_the_one_that_is_fused() -> None:
    torch.manual_seed(0)
    x, norm, project = torch.randn(2, 8, 5, 7), norm_of_chance(8), PointwiseConv(8, 12, bias=True)
    normed = norm(x)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    plain = (x - mean) / (variance + 1e-5).sqrt()
    plain = plain * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(normed, plain)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(project(x, norm), project(normed))


@torch.no_grad()
def test_modules_apply_all_that_they_own() -> None:
    """Norm, projections and residual of a module, one after the other, give what it gives."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 7)

    attention = PreNormAttention(8, 2, bias=True)
    alone = attention(x, residual=torch.zeros_like(x))
    torch.testing.assert_close(attention(x, residual=x), alone + x)

    shared, norm = SharedExpert(8, 2), norm_of_chance(8)
    qkv = shared.qkv_depthwise(shared.qkv(shared.project_in(norm(x))))
    out = shared.project_out.weight.flatten(1)
    attended = channel_attention(qkv[:, :8], qkv[:, 8:], shared.temperature.flatten(), out)
    torch.testing.assert_close(shared(x, norm), attended)

    query = ProjectedDepthwiseConv(8, 12, 3, project_in=True)
    assert query.project_in is not None
    torch.testing.assert_close(query(x), query.depthwise(query.projection(query.project_in(x))))

    feedforward = GatedFeedForward(8, 2.0, bias=True)
    feedforward.norm = norm
    a, b = feedforward.depthwise(feedforward.project_in(norm(x))).chunk(2, dim=1)
    torch.testing.assert_close(
        feedforward(x, residual=x), feedforward.project_out(F.gelu(a) * b, residual=x)
    )
    with pytest.raises(ValueError, match="give residual=x"):
        feedforward(x, residual=x.clone())


def test_convolutions_of_a_type_that_the_processor_cannot_multiply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run in float32 and are rounded; where it can they are left alone."""
    conv, x = Conv3x3(16, 8), torch.randn(1, 16, 9, 7)
    exact = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        monkeypatch.setattr(backends, "pytorch_multiplies", lambda dtype: False)
        rounded = conv(x)
        monkeypatch.setattr(backends, "pytorch_multiplies", lambda dtype: True)
        multiplied = conv(x)
    assert torch.equal(rounded, exact.bfloat16())
    assert multiplied.dtype == torch.bfloat16 and not torch.equal(multiplied, rounded)
    assert list(conv.state_dict()) == ["weight"]


def test_convolutions_compile_whole_under_autocast() -> None:
    conv, x = Conv3x3(16, 8), torch.randn(1, 16, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(conv, fullgraph=True, backend="eager")(x)
        assert torch.equal(compiled, conv(x))
