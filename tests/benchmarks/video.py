"""Time per frame of a color and a label video, compared with a sample without encoder, mapping and backbone.

python tests/benchmarks/video.py [--cfg edge2car] [--frames 6] [--format gif] [--cpu-time]
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import torch
from sample import stages

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from camera_utils import CAMERAS, front_pose, path_poses
from inference.video import ENCODERS, open_video, render_views
from inference.view import View
from torch_utils.host_memory import keep_freed_memory
from training.networks.configs import CONFIGS, RAW_RESOLUTION
from training.networks.registry import construct

ONCE = ("label-map encoder", "mapping", "backbone to planes")  # stages that a video goes through once


@click.command()
@click.option("--cfg", default="edge2car", type=click.Choice(["seg2cat", "edge2car"]))
@click.option("--frames", default=6, help="Frames of the video that is timed.")
@click.option("--format", "ending", default="gif", type=click.Choice(list(ENCODERS)))
@click.option("--cpu-time", is_flag=True, help="Measure CPU time of one thread, for a busy machine.")
@click.option("--repeat", default=2, help="Number of runs; the fastest is printed.")
def main(cfg: str, frames: int, ending: str, cpu_time: bool, repeat: int) -> None:
    """Print both times, and the share of drawing and encoding."""
    kwargs, r, preset = CONFIGS[cfg].kwargs(), RAW_RESOLUTION[cfg], CAMERAS[cfg]
    G = construct("TriPlaneSemanticEntangleGenerator", kwargs).eval()
    G.neural_rendering_resolution = r
    size = kwargs["mapping_kwargs"]["in_resolution"]
    label_map = torch.randint(6, (1, 1, size, size)) if cfg.startswith("seg") else torch.rand(1, 1, size, size) * 2 - 1
    keep_freed_memory()
    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)

    def video_seconds() -> tuple[float, float]:
        """Return the seconds of a whole frame, and of its rendering alone."""
        ws = torch.randn(1, G.num_ws, G.w_dim)
        planes = G.planes(ws, noise_mode="const")
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            paths = {shown: Path(directory) / f"{shown}.{ending}" for shown in ("color", "label")}
            videos = {shown: stack.enter_context(open_video(path, 60)) for shown, path in paths.items()}
            start, rendering = clock(), 0.0
            poses = path_poses("orbit", preset, frames)
            views = render_views(G, ws, planes, poses)
            for pose in poses:
                before = clock()
                out = next(views)
                rendering += clock() - before
                for shown, write in videos.items():
                    write(View(G, pose[None], out).frame(shown))
            return (clock() - start) / frames, rendering / frames

    with torch.inference_mode():
        runs = [stages(G, label_map, front_pose(preset), r, clock) for _ in range(repeat)]
        sample = min(sum(seconds for name, seconds in run.items() if name not in ONCE) for run in runs)
        frame, rendering = min(video_seconds() for _ in range(repeat))
    click.echo(f"sample less mapping and backbone {sample:7.3f} s")
    click.echo(f"frame of a video                  {frame:7.3f} s, {frame / sample:.0%} of it")
    click.echo(f"  of which rendering             {rendering:7.3f} s")
    click.echo(f"  of which drawing and encoding  {frame - rendering:7.3f} s")


if __name__ == "__main__":
    main()
