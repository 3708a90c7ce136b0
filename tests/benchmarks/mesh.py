"""Time and memory of meshes.

python tests/benchmarks/mesh.py grid      the density grid against the field point by point
python tests/benchmarks/mesh.py whole     extract_mesh.py without its video, with random weights of the published size
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import legacy
from inference.mesh.density_grid import density_slabs
from training.networks.decoders import Decoder
from training.networks.triplane_field import TriplaneField

ROOT = Path(__file__).resolve().parents[2]
BOX = 1.0


@click.group()
def main() -> None:
    """Time and memory of meshes."""


@main.command()
@click.option("--resolution", default=512, show_default=True, help="Points on a side.")
@click.option("--slabs", default=4, show_default=True, help="Slabs done point by point; the rest is extrapolated.")
@click.option("--scale", default=1.0, show_default=True, help="Standard deviation of the planes.")
@click.option("--axes", type=click.Choice(["published", "corrected"]), default="published", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def grid(resolution: int, slabs: int, scale: float, axes: str, device: str) -> None:
    """Compare both methods on a field of the published size with random weights."""
    quick, plain, difference = compare_grids(resolution, slabs, scale, axes, device)
    print(f"grid      {quick:.1f} s for {resolution}^3 points")
    print(f"by points {plain:.1f} s, extrapolated from {slabs} slabs")
    print(f"ratio {plain / quick:.0f}, largest difference {difference:.1e} standard deviations")


def compare_grids(
    resolution: int, slabs: int, scale: float = 1.0, axes: str = "published", device: str = "cpu"
) -> tuple[float, float, float]:
    """Compute the density on a grid plane by plane, and some slabs of it point by point.

    Returns:
        Seconds of the grid; seconds point by point, extrapolated; largest difference in standard deviations.
    """
    torch.manual_seed(0)
    options = {"decoder_output_dim": 32, "semantic_channels": 6}
    decoder = Decoder(32, options, "OSGDecoder_semantic_lateSeparate").requires_grad_(False).to(device)
    field = TriplaneField(scale * torch.randn(1, 3, 32, 256, 256, device=device), decoder, BOX, axes)

    # The whole grid. Copied to the CPU, as for a mesh, which waits for the device.
    list(density_slabs(field, 32))  # warm-up
    start = time.perf_counter()
    found = torch.cat([slabs.cpu() for _, slabs in density_slabs(field, resolution)])
    quick = time.perf_counter() - start

    # Some slabs by points.
    line = torch.linspace(-BOX / 2, BOX / 2, resolution, device=device)
    y, z = torch.meshgrid(line, line, indexing="ij")
    chosen = torch.linspace(0, resolution - 1, slabs).long().tolist()
    start, difference = time.perf_counter(), 0.0
    for i in chosen:
        points = torch.stack([line[i].expand_as(y), y, z], dim=-1).view(1, -1, 3)
        sigma = field.reference(points)[1].view(y.shape).cpu()
        difference = max(difference, (sigma - found[i]).abs().max().item())
    plain = (time.perf_counter() - start) * resolution / slabs
    return quick, plain, difference / found.std().item()


@main.command()
@click.option("--cfg", default="seg2cat", show_default=True, type=click.Choice(["seg2cat", "edge2car"]))
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def whole(cfg: str, more: tuple[str, ...]) -> None:
    """Run the command in its own process; arguments after -- are added to its options."""
    image = ROOT / "applications" / "assets" / ("cat.png" if cfg == "seg2cat" else "car.png")
    with tempfile.TemporaryDirectory() as directory:
        network = Path(directory) / "random.pt"
        legacy.main(["init", str(network), "--cfg", cfg], standalone_mode=False)
        command = [sys.executable, ROOT / "applications" / "extract_mesh.py", "--network", network, "--cfg", cfg]
        command += ["--outdir", directory, "--input", image, "--no-film", "--threshold", "auto", *more]
        start = time.perf_counter()
        subprocess.run([str(word) for word in command], check=True)
        seconds = time.perf_counter() - start
    print(f"extract_mesh {seconds:.1f} s, {_peak_bytes() / 1e9:.2f} GB at its peak")


def _peak_bytes() -> int:
    """Return the peak memory of the child processes, bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
