"""Render images and label maps of a label map, one pair per seed or photo."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from typing import Any

import click
from tqdm import tqdm

from applications import cli
from dnnlib.cli import Command, echo, option_group
from inference import Scene
from inference.generator import config_of
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map


@click.command(cls=Command, fields=cli.FIELDS)
@cli.input_options
@cli.model_options
@option_group(
    "Output",
    cli.outdir_option,
    cli.seeds_option("image and label map"),
    cli.style_option("Photos whose style is taken in place of a seed's; one image and label map for each.",
                     multiple=True),
)  # fmt: skip
@cli.device_options
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, seeds: list[int],
    style: tuple[str, ...], **source: Any,
) -> None:  # fmt: skip
    """Render the image and the label map of a label map, seen from the pose of its sample, or from the front.

    Writes CFG_NAME_input.png and, for each seed, CFG_NAME_SEED_color.png and CFG_NAME_SEED_label.png, where NAME is
    the sample's number, or the name of the input file. For each photo of --style, SEED is style-PHOTO.

    \b
    Examples:
      python applications/generate_samples.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 0 1 --input applications/assets/cat.png
      python applications/generate_samples.py --network cat.pt --outdir out --cfg seg2cat \\
          --style ginger.jpg tabby.jpg --input applications/assets/cat.png
    """
    # Check the options before the weights, which can be a long download.
    torch_device = cli.check_places(device, outdir)
    cli.check_input(**source)
    named_styles = cli.name_styles(seeds, style)

    # Load the network, the label map that fits it, and photos.
    G = cli.load_generator(network, cfg, torch_device, precision)
    cfg = cfg or config_of(G)
    label_input = cli.read_input(G, cfg, **source)
    styles = cli.read_styles(G, named_styles)

    # Write the files style by style, so that an interruption keeps what is complete.
    prefix = outdir / f"{cfg}_{label_input.name}"
    with cli.output_errors():
        write_png(f"{prefix}_input.png", draw_label_map(label_input.label_map, G.data_type)[0])
        # The generator makes each scene when it is asked for, so that memory does not grow with the styles.
        scenes = Scene.from_styles(G, label_input.label_map, styles.values(), label_input.pose, cfg)
        bar = tqdm(scenes, total=len(styles), unit="sample", delay=2, disable=None)  # None: only on a terminal
        for name, scene in zip(styles, bar, strict=True):
            view = scene.render(pose=label_input.pose)
            write_png(f"{prefix}_{name}_color.png", view.image)
            write_png(f"{prefix}_{name}_label.png", view.label_image)
    echo(f"Wrote {prefix}_*.png")


if __name__ == "__main__":
    main()
