"""Label map in, pictures out: the image and its label map from the front, for each seed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common
from dnnlib.cli import Command, user_errors
from training.data.image_io import write_png
from training.data.label_maps import draw_image, draw_label_map, draw_semantic
from training.networks.generator import TriPlane


@torch.inference_mode()
def sample(G: TriPlane, label_map: Tensor, pose: Tensor, seeds: Iterable[int]) -> Iterator[dict[str, Tensor]]:
    """What `G.synthesis` gives for each seed; the label map is encoded once.

    Args:
        label_map: 1,1,H,W. pose: 1,25, to condition on and to look from.
    """
    encoded = G.encode({"mask": label_map})
    for seed in seeds:
        ws = common.scene_ws(G, encoded, pose, seed)
        planes = common.scene_planes(G, ws)
        yield G.synthesis(ws, pose, planes=planes, noise_mode="const", jitter=False)


@click.command(cls=Command)
@common.model_options
@common.input_options
@common.seeds_option("sample")
def main(
    network: str, outdir: Path, cfg: str, device: str | None, precision: str, seeds: list[int], **source: Any
) -> None:
    """Make images and label maps of a label map, seen from the pose of its sample, or from the front.

    Writes CFG_NAME_input.png and, for each seed, CFG_NAME_SEED_color.png and CFG_NAME_SEED_label.png, where NAME is
    the sample's number, or the name of the input file.

    \b
    Example:
      python applications/generate_samples.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 0 1 --input applications/assets/cat.png
    """
    chosen = common.check_places(device, outdir)
    given = common.read_input(cfg, **source)  # before the weights, which can be a long download
    G = common.load_generator(network, cfg, chosen, precision)
    label_map, pose = common.fit(given, G, cfg, chosen)

    name = f"{cfg}_{given.name}"
    with user_errors("--outdir"):
        write_png(outdir / f"{name}_input.png", draw_label_map(label_map, G.data_type)[0])
    samples = sample(G, label_map, pose, seeds)
    bar = tqdm(samples, total=len(seeds), unit="sample", delay=2, disable=None)  # only where somebody waits and looks
    for seed, out in zip(seeds, bar, strict=True):
        with user_errors("--outdir"):
            write_png(outdir / f"{name}_{seed}_color.png", draw_image(out["image"])[0])
            write_png(outdir / f"{name}_{seed}_label.png", draw_semantic(out["semantic"], G.data_type)[0])
    click.echo(f"Wrote {outdir}/{name}_*.png")


if __name__ == "__main__":
    main()
