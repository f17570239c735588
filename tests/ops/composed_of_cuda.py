"""Composed operators of the CUDA library's parts and of Triton's, on a CPU, where the library is
emulated and Triton interpreted: prints the name of each that agrees with the reference. Kernels for
its gradients, where there are any, must give those of Triton alone.

    MOCE_TEST_LIBRARIES=<folder> TRITON_INTERPRET=1 python -m tests.ops.composed_of_cuda
"""

from __future__ import annotations

import importlib

import torch

from moce_kernels import native, registry
from moce_kernels.ops import _library
from moce_kernels.triton_kernels._parts import TRITON, Parts, of_cuda_library
from tests import other_libraries  # noqa: F401, it chooses the library
from tests.ops.samples import SPECS, transposed_attention
from tests.ops.test_all_ops import error


def main() -> None:
    reason = native.load("cpu")
    assert reason is None, reason
    parts = of_cuda_library(_library.raw("cpu"))
    for spec in SPECS:
        if spec.name in registry.composed():
            module = importlib.import_module(f"moce_kernels.triton_kernels.{spec.name}")
            for sample in spec.tiny():
                raw = sample.raw(**folded(sample.tensors))
                ours = module.forward(*raw, parts=parts)
                expected = sample.call("reference", **sample.cast(torch.float64))
                out = ours[0] if isinstance(ours, tuple) else ours
                torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
                if hasattr(module, "backward"):
                    grad = torch.randn_like(out)
                    ours, triton = (module.backward(grad, *raw, parts=p) for p in (parts, TRITON))
                    torch.testing.assert_close(ours, triton, rtol=1e-5, atol=1e-5)
            print(spec.name)
    check_attention(parts)


def check_attention(parts: Parts) -> None:
    """The first pass of 16 bits, with so many parts of sums that they are added up in between."""
    s = transposed_attention.sample((1, 32, 150, 160), "channels_last", 1, 32, 32, "shortcut")
    s = s.rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, torch.device("cpu"))
    module = importlib.import_module("moce_kernels.triton_kernels.transposed_attention")
    exact = s.call("reference", **s.cast(torch.float64))
    ours, plain = module.forward(*s.raw(**cast), parts=parts)[0], s.call("reference", **cast)
    assert error(ours, exact) <= 2 * error(plain, exact), (error(ours, exact), error(plain, exact))


def folded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the public function hands them on: LayerNorm's scale and shift in the first product."""
    t = dict(tensors)
    if "scale" in t:
        name = next(n for n in ("project_in", "qkv", "weight") if n in t)
        bias = {"project_in": "in_bias", "qkv": "qkv_bias", "weight": "bias"}[name]
        scale, shift = t.pop("scale"), t.pop("shift")
        t[bias] = t[name] @ shift + t.get(bias, 0)
        t[name] = t[name] * scale
    return t


if __name__ == "__main__":
    main()
