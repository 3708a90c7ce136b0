"""Time the density grid against the field point by point: python tests/benchmarks/mesh.py [--resolution 512].

A field of the published size with random weights. Point by point takes too long to do in full: a few slabs are done
and the rest is reckoned. One line a form, then their ratio and largest difference on these slabs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training.decoders import Decoder
from training.density_grid import density_grid
from training.fields import TriplaneField

BOX = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=512, help="points on a side (default: 512)")
    parser.add_argument("--slabs", type=int, default=4, help="slabs done point by point (default: 4)")
    parser.add_argument("--scale", type=float, default=1.0, help="standard deviation of the planes (default: 1)")
    parser.add_argument("--axes", choices=("published", "corrected"), default="published")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda (default: cpu)")
    args = parser.parse_args()
    torch.manual_seed(0)
    options = {"decoder_output_dim": 32, "semantic_channels": 6}
    decoder = Decoder(32, options, "OSGDecoder_semantic_lateSeparate").requires_grad_(False).to(args.device)
    planes = args.scale * torch.randn(1, 3, 32, 256, 256, device=args.device)
    field = TriplaneField(planes, decoder, BOX, args.axes)

    density_grid(field, 32)  # wakes the device up
    start = time.perf_counter()
    grid = density_grid(field, args.resolution)
    quick = time.perf_counter() - start
    print(f"grid      {quick:.1f} s for {args.resolution}^3 points")

    line = torch.linspace(-BOX / 2, BOX / 2, args.resolution, device=args.device)
    y, z = torch.meshgrid(line, line, indexing="ij")
    chosen = torch.linspace(0, args.resolution - 1, args.slabs).long().tolist()
    start, difference = time.perf_counter(), 0.0
    for i in chosen:
        points = torch.stack([line[i].expand_as(y), y, z], dim=-1).view(1, -1, 3)
        sigma = field.reference(points)[1].view(y.shape).cpu()
        difference = max(difference, (sigma - grid[i]).abs().max().item())
    plain = (time.perf_counter() - start) * args.resolution / args.slabs
    print(f"by points {plain:.1f} s, reckoned from {args.slabs} slabs")
    print(f"ratio {plain / quick:.0f}, largest difference {difference / grid.std().item():.1e} standard deviations")


if __name__ == "__main__":
    main()
