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
from dnnlib.cli import Command, option_group, overwrite_option
from dnnlib.outputs import Outputs


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
@overwrite_option
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, seeds: list[int],
    style: tuple[str, ...], outputs: Outputs, **source: Any,
) -> None:  # fmt: skip
    """Render the images and the label maps of label maps, seen from the pose of a sample, or from the front.

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
    options = cli.InputOptions(**source)
    sources = options.check()
    named_styles = cli.name_styles(seeds, style)
    cli.announce(network, outdir)
    G = cli.load_generator(network, cfg, device, precision)

    # These import PyTorch.
    from inference import Scene
    from inference.generator import config_of
    from training.data.image_io import write_png

    # Names of all files, and photos.
    cfg = cfg or config_of(G)
    prefixes = {name: outdir / f"{cfg}_{name}" for name in sources}
    shows = ("color", "label")
    outputs.claim(*(f"{prefix}_{style}_{show}.png" for prefix in prefixes.values() for style in named_styles
                    for show in shows))  # fmt: skip
    styles = cli.read_styles(G, named_styles)
    write_drawing = cli.claim_drawings(outputs, options.read(G, cfg, sources), prefixes, G.data_type)

    # Write the files input by input and style by style, so that an interruption keeps what is complete.
    with cli.output_errors(), tqdm(total=len(sources) * len(styles), unit="sample", delay=2, disable=None) as bar:
        for label_input in options.read(G, cfg, sources):
            prefix = prefixes[label_input.name]
            write_drawing[label_input.name]()
            # The generator makes each scene when it is asked for, so that memory does not grow with the styles.
            scenes = Scene.from_styles(G, label_input.label_map, styles.values(), label_input.pose, cfg)
            for name, scene in zip(styles, scenes, strict=True):
                view = scene.render(pose=label_input.pose)
                write_png(f"{prefix}_{name}_color.png", view.image)
                write_png(f"{prefix}_{name}_label.png", view.label_image)
                bar.update()


if __name__ == "__main__":
    main()
