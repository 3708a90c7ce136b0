"""Time the fast renderer against the reference: python tests/benchmarks/rendering.py [--rays 128] [--repeats 3].

One line a form: seconds (best of the repeats) and, in the end, their ratio and largest difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch_utils.host_memory import keep_freed_memory
from training.networks.decoders import Decoder
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.rays import sample_rays
from training.volumetric_rendering.renderer import Rendering, RenderOptions, render

CAT = RenderOptions(start=2.25, end=3.3, samples=48, fine_samples=48, box_warp=1.0)
FOCAL, RADIUS = 4.2647, 2.7


def scene(rays: int, device: torch.device) -> tuple[TriplaneField, torch.Tensor, torch.Tensor]:
    """A random field of the model's real size and a camera in front of it."""
    torch.manual_seed(0)
    decoder = Decoder(32, {"decoder_output_dim": 32, "semantic_channels": 6}, "OSGDecoder_semantic_lateSeparate").to(
        device
    )
    planes = torch.randn(1, 3, 32, 256, 256, device=device)
    cam2world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], device=device))[None]
    cam2world[0, 2, 3] = RADIUS
    intrinsics = torch.tensor([[[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]]], device=device)
    return TriplaneField(planes, decoder, CAT.box_warp), *sample_rays(cam2world, intrinsics, rays)


def best_time(run: Callable[[], Rendering], device: torch.device, repeats: int) -> tuple[float, Rendering]:
    """Return the seconds of the fastest run after a warm-up, and its result."""
    rendering, seconds = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        rendering = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds), rendering


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rays", type=int, default=128, help="rays on a side (default: 128)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (default: 3)")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda, mps (default: cpu)"
    )
    args = parser.parse_args()
    keep_freed_memory()  # as the applications do
    with torch.no_grad():
        field, origins, directions = scene(args.rays, args.device)
        times, renderings = {}, {}
        for impl in ("ref", "fast"):
            times[impl], renderings[impl] = best_time(
                lambda impl=impl: render(field, origins, directions, CAT, jitter=False, impl=impl),
                args.device,
                args.repeats,
            )
            print(f"{impl:5s} {times[impl]:.3f} s for {args.rays}x{args.rays} rays of 48+48 samples")
    difference = (renderings["fast"].features - renderings["ref"].features).abs().max().item()
    print(f"ratio {times['ref'] / times['fast']:.1f}, largest difference of features {difference:.1e}")


if __name__ == "__main__":
    main()
