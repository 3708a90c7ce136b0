"""Time of each stage of one full-size sample: encoder, mapping, planes, rendering, super-resolution.

python tests/benchmarks/sample.py [--cfg seg2cat] [--precision fp32] [--repeat 3] [--compare]
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from camera_utils import CAMERAS, front_pose
from dnnlib.choices import PRECISIONS
from torch_utils.host_memory import keep_freed_memory
from torch_utils.ops import build
from torch_utils.precision import set_precision
from training.networks.configs import CONFIGS
from training.networks.registry import construct


def stages(G, label_map: torch.Tensor, pose: torch.Tensor, r: int, clock) -> dict[str, float]:
    """Return the seconds of each stage, in their order."""
    seconds, last = {}, clock()

    def done(name: str) -> None:
        nonlocal last
        now = clock()
        seconds[name], last = now - last, now

    encoded = G.encode({"mask": label_map})
    done("label-map encoder")
    ws = G.mapping(torch.randn(1, G.z_dim), pose, encoded=encoded)
    done("mapping")
    planes = G.planes(ws, noise_mode="const")
    done("backbone to planes")
    starts = {G.superresolution: "rendering", G.superresolution_semantic: "super-resolution, color"}
    hooks = [m.register_forward_pre_hook(lambda *_, name=name: done(name)) for m, name in starts.items()]
    G.synthesis(ws, pose, neural_rendering_resolution=r, planes=planes, jitter=False)
    done("super-resolution, labels")
    for hook in hooks:
        hook.remove()
    return seconds


def without_kernels():
    """Context in which PyTorch's operators compute everything."""
    return mock.patch.object(build, "kernels_ready", return_value=False)


@click.command()
@click.option("--cfg", default="seg2cat", type=click.Choice(["seg2cat", "edge2car"]))
@click.option("--precision", default="fp32", type=click.Choice(PRECISIONS))
@click.option("--cpu-time", is_flag=True, help="Measure CPU time of one thread, for a busy machine.")
@click.option("--repeat", default=3, help="Number of runs; the fastest is printed.")
@click.option("--compare", is_flag=True, help="Run without the CPU kernels too, in turns, and print the ratio.")
def main(cfg: str, precision: str, cpu_time: bool, repeat: int, compare: bool) -> None:
    """Print seconds per stage and in all."""
    kwargs = CONFIGS[cfg].kwargs()
    G = construct("TriPlaneSemanticEntangleGenerator", kwargs).eval()
    set_precision(G, precision)
    size = kwargs["mapping_kwargs"]["in_resolution"]
    label_map = torch.randint(6, (1, 1, size, size)) if cfg.startswith("seg") else torch.rand(1, 1, size, size) * 2 - 1
    keep_freed_memory()
    clock, r = time.process_time if cpu_time else time.perf_counter, 64 if cfg == "edge2car" else 128
    if cpu_time:
        torch.set_num_threads(1)
    pose = front_pose(CAMERAS[cfg])
    forms = {"kernels": nullcontext, "PyTorch": without_kernels} if compare else {"kernels": nullcontext}
    runs = {form: [] for form in forms}
    with torch.no_grad():
        for _ in range(repeat):
            for form, context in forms.items():
                with context():
                    seconds = stages(G, label_map, pose, r, clock)
                runs[form].append({**seconds, "one sample": sum(seconds.values())})

    # The fastest run of each stage; with both forms, their ratio.
    best = {form: {name: min(run[name] for run in runs[form]) for name in runs[form][0]} for form in forms}
    for name, value in best["kernels"].items():
        plain = best["PyTorch"][name] if compare else None
        compared = "" if plain is None else f" {plain:9.2f} s without kernels {plain / value:7.2f}"
        click.echo(f"{name:28s} {value:7.2f} s{compared}")


if __name__ == "__main__":
    main()
