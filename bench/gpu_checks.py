"""What the whole network must be able to do on a GPU: ``python -m bench.gpu_checks sync|graph``.

sync: a forward pass that never waits for the GPU (``torch.cuda.set_sync_debug_mode("error")``).
graph: the forward pass replayed from a CUDA graph, as Restorer does it, equal to the eager pass.
--device cpu runs the passes alone.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from moceir import MoCEIR, MoCEIRConfig
from moceir.tool.graphs import Replayed

SIDE = 128


def network(device: str) -> MoCEIR:
    torch.manual_seed(0)
    config = MoCEIRConfig(dim=16, num_blocks=(1, 1, 1, 1), num_dec_blocks=(1, 1, 1))
    return MoCEIR(config).to(device).eval().to(memory_format=torch.channels_last)


def images(device: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    batch = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    return batch.to(device, memory_format=torch.channels_last)


def check_sync(device: str) -> str:
    model, batch = network(device), images(device, 0)
    with torch.inference_mode():
        model(batch)  # libraries are loaded and kernels compiled
        if device == "cpu":
            return "a forward pass ran; there is no GPU to wait for"
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "a forward pass without host synchronisation"


def check_graph(device: str) -> str:
    model = network(device)

    def forward(batch: Tensor) -> tuple[Tensor]:
        return (model(batch),)

    with torch.inference_mode():
        if device == "cpu":
            forward(images(device, 0))
            return "a forward pass ran; there are no CUDA graphs here"
        replayed = Replayed(forward)
        replayed(images(device, 0))  # as it is
        for seed in range(1, 4):  # the first is captured
            batch = images(device, seed)
            (ours,), (eager,) = replayed(batch), forward(batch)
            if not torch.equal(ours, eager):
                difference = float((ours - eager).abs().max())
                raise SystemExit(f"images {seed}: replay and eager differ by {difference:.3g}")
        if not replayed.release():
            raise SystemExit("nothing was captured")
    return "a replay on three other batches, bit for bit equal to eager"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=["sync", "graph"])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = False
    print({"sync": check_sync, "graph": check_graph}[arguments.check](arguments.device))


if __name__ == "__main__":
    main()
