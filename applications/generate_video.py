"""Render videos of a label map's scene and of its label map, from a moving camera."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from applications import cli
from camera_utils import CAMERAS, PATH_FRAMES, PATHS, path_poses
from dnnlib.cli import ChoiceList, Command, InputError, echo, option_group, user_errors
from inference import Scene, View
from inference.generator import config_of
from inference.inputs import to_label_map
from inference.video import ENCODERS, FPS, check_video_format
from inference.view import SHOWS, interpolate_views, write_videos
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map
from training.data.pose_files import read_poses
from training.networks.generator import TriPlane

# Longest part of a file's name that lists styles, or that names the second label map.
NAME_LENGTH = 60
# Suffixes of file names, by what a video shows.
SUFFIXES = {"color": "", "label": "_label", "side_by_side": "_side_by_side", "depth": "_depth"}


def read_trajectory(path: str, frames: int | None) -> Tensor | None:
    """Read the poses (F,25) of a --path that is a file; return None if it is one of PATHS.

    Raises:
        InputError: neither, or a file together with --frames.
    """
    if path in PATHS:
        return None
    # A word that is no file is more likely a mistyped path name than a missing file.
    if not Path(path).exists():
        raise InputError(f"--path {path}: expected {', '.join(PATHS)} or a JSON file of poses")
    with user_errors("--path"):
        poses = read_poses(path)
    if frames is not None:
        raise InputError(f"--frames: goes with --path {' or '.join(PATHS)}; {path} holds {len(poses)} poses")
    return poses


def check_interpolation(interpolate: bool, to: str | None, styles: int, frames: int) -> None:
    """Check the options of interpolation, and the numbers of styles and frames, against each other.

    Raises:
        InputError: they do not go together, or there is nothing to interpolate between.
    """
    # Options without effect are rejected, and so are videos that would stand still or skip styles.
    if to is not None and not interpolate:
        raise InputError("--to: goes with --interpolate")
    if interpolate and styles == 1 and to is None:
        raise InputError("--interpolate: expected several --random_seed or --style, or --to with a second label map")
    if interpolate and styles > frames:
        raise InputError(f"--interpolate: {styles} seeds and styles need as many frames, got {frames}")


def interpolation_name(styles: Sequence[str], to: str | None) -> str:
    """Return the part of an interpolation's file name that lists its styles and names its second label map."""
    # Long lists are shortened: file systems allow about 255 bytes.
    name = "-".join(styles)
    if len(name) > NAME_LENGTH:
        name = f"{styles[0]}-{styles[-1]}"
    if to is None:
        return name

    # Label maps in different directories often have the same name.
    second = "-".join(filter(None, (Path(to).parent.name, Path(to).stem)))
    return f"{name}-to-{second[-NAME_LENGTH:]}"


def videos(
    G: TriPlane,
    cfg: str,
    inputs: list[cli.Input],
    styles: Mapping[str, int | Tensor],
    poses: Tensor,
    outputs: set[str],
    name: str | None,
) -> Iterator[tuple[str, Iterator[View]]]:
    """Render one video per style, or a single one that goes through all styles and label maps.

    Args:
        G: the generator.
        cfg: its cameras.
        inputs: one or two label maps; the pose of the first conditions all scenes.
        styles: K seeds or photos by name.
        poses: F,25.
        outputs: of `G.synthesis`, that are rendered.
        name: of the single video, or None for one per style.
    Yields:
        Name and F views of each video; the views are rendered as they are asked for.
    """
    # Scenes are made as they are asked for, so that any number of styles fits into memory.
    scenes = [Scene.from_styles(G, source.label_map, styles.values(), inputs[0].pose, cfg) for source in inputs]
    if name is None:
        for style, scene in zip(styles, scenes[0], strict=True):
            yield style, scene.views(poses, outputs)
    else:
        # Only the ws are kept: tri-planes of interpolated scenes are computed per frame.
        ws = [torch.cat([scene.ws for scene in by_style]) for by_style in scenes]  # K,num_ws,w_dim for each label map
        yield name, interpolate_views(G, torch.stack(ws, dim=1), poses, outputs)


@click.command(cls=Command, fields=cli.FIELDS)
@cli.input_options
@option_group(
    "Input",
    cli.option("interpolate", bool, False, "Make one video that goes from the first seed or style to the last.",
               is_flag=True),
    cli.option("to", str, None, "Label map at the end of an --interpolate video, which begins with --input.",
               metavar="FILE"),
)  # fmt: skip
@cli.model_options
@option_group(
    "Camera",
    cli.option("path", str, "orbit", "orbit: the published swing around the front (cars: all around). turn: once "
               "around. FILE.json: a list of poses, 25 numbers each, or the dataset.json of a data set.",
               metavar="orbit|turn|FILE.json"),
    cli.option("frames", click.IntRange(1, 100_000), None, f"Number of frames.  [default: {PATH_FRAMES}, or as many as "
               "FILE.json has]"),
)  # fmt: skip
@option_group(
    "Output",
    cli.outdir_option,
    cli.seeds_option("video"),
    cli.style_option("Photos whose style is taken in place of a seed's; one video for each, after those of the seeds.",
                     multiple=True),
    cli.option("show", ChoiceList(SHOWS), "color,label", "What the videos show, one video for each.",
               metavar=",".join(SHOWS)),
    click.option("--format", "formats", type=ChoiceList(ENCODERS), default="gif", show_default=True, metavar="gif,mp4",
                 help='File formats, one or both. mp4 needs pip install -e ".[video]".'),
    cli.option("fps", click.IntRange(1, 240), FPS, "Frames per second. A gif has delays in steps of 10 ms and 50 "
               "frames per second at most."),
)  # fmt: skip
@cli.device_options
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, seeds: list[int],
    style: tuple[str, ...], path: str, frames: int | None, fps: int, formats: list[str], show: list[str],
    interpolate: bool, to: str | None, **source: Any,
) -> None:  # fmt: skip
    """Make videos of the scene of a label map, and of its label map; without --input of sample 0 of the data set.

    Writes CFG_input.png (of a sample: CFG_N_input.png) and for each seed CFG_SEED.gif and CFG_SEED_label.gif, with
    --show also CFG_SEED_side_by_side.gif and CFG_SEED_depth.gif. For a photo of --style, SEED is style-PHOTO. With
    --interpolate, it is all of them, like 3-9-5 (of a long list the first and the last), and with --to it is 3-to-NAME.

    \b
    Examples:
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 1 --input applications/assets/cat.png --format gif,mp4
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 0 1 2 --interpolate --path turn --input applications/assets/cat.png
    """
    # Check the options before the weights, which can be a long download.
    torch_device = cli.check_places(device, outdir)
    with user_errors("--format"):
        for name in formats:
            check_video_format(name)
    poses = read_trajectory(path, frames)
    count = len(poses) if poses is not None else frames or PATH_FRAMES
    named_styles = cli.name_styles(seeds, style)
    check_interpolation(interpolate, to, len(named_styles), count)
    if source["input_file"] is None and source["input_id"] is None:
        source["input_id"] = 0
    cli.check_input(**source)
    if to is not None:
        cli.check_is_file("--to", to)

    # Load the network, the label maps that fit it, and photos.
    G = cli.load_generator(network, cfg, torch_device, precision)
    cfg = cfg or config_of(G)
    inputs = [cli.read_input(G, cfg, **source)]
    if to is not None:
        with user_errors("--to"):
            options = cli.label_map_options(source["classes"], source["ignore"], source["fit"])
            inputs.append(cli.Input("to", to_label_map(to, G, options), None))
    styles = cli.read_styles(G, named_styles)

    # Render frame by frame into all files of a video.
    if poses is None:
        poses = path_poses(path, CAMERAS[cfg], count, **G.orbit)

    # Outputs that no video shows are not rendered.
    outputs = set().union(*(SHOWS[name] for name in show))
    through_all = interpolation_name(list(styles), to) if interpolate else None
    sample = "" if source["input_file"] else f"_{inputs[0].name}"
    with cli.output_errors():
        write_png(outdir / f"{cfg}{sample}_input.png", draw_label_map(inputs[0].label_map, G.data_type)[0])
        with tqdm(total=count * (1 if interpolate else len(styles)), unit="frame", delay=2, disable=None) as bar:
            for name, views in videos(G, cfg, inputs, styles, poses, outputs, through_all):
                paths = {outdir / f"{cfg}_{name}{SUFFIXES[shown]}.{end}": shown for shown in show for end in formats}
                write_videos(views, paths, fps, bar.update)
    echo(f"Wrote {outdir}/{cfg}_*.{formats[0] if len(formats) == 1 else '*'}")


if __name__ == "__main__":
    main()
