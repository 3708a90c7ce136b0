"""Render videos of a label map's scene and of its label map, from a moving camera."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from applications import cli
from dnnlib.choices import FPS, PATH_FRAMES, PATH_NAMES, SHOW_NAMES, VIDEO_FORMATS
from dnnlib.cli import ChoiceList, Command, InputError, option_group, overwrite_option, user_errors
from dnnlib.outputs import Outputs

if TYPE_CHECKING:  # these import PyTorch
    from torch import Tensor

    from training.networks.generator import TriPlane

# Longest part of a file's name that lists styles, or that names the second label map.
NAME_LENGTH = 60
# Suffixes of file names, by what a video shows.
SUFFIXES = {"color": "", "label": "_label", "side_by_side": "_side_by_side", "depth": "_depth"}


def read_trajectory(path: str, frames: int | None) -> Tensor | None:
    """Read the poses (F,25) of a --path that is a file; return None if it is one of PATH_NAMES.

    Raises:
        InputError: neither, or a file together with --frames.
    """
    if path in PATH_NAMES:
        return None
    # A word that is no file is more likely a mistyped path name than a missing file.
    if not Path(path).exists():
        raise InputError(f"--path {path}: expected {', '.join(PATH_NAMES)} or a JSON file of poses")
    from training.data.pose_files import read_poses

    with user_errors("--path"):
        poses = read_poses(path)
    if frames is not None:
        raise InputError(f"--frames: goes with --path {' or '.join(PATH_NAMES)}; {path} holds {len(poses)} poses")
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


def check_weights(styles: Mapping[str, object]) -> None:
    """Check that all styles are made by the same weights, which tuned projections are not.

    Raises:
        InputError: there is a tuned projection.
    """
    from inference.projection import Projection

    for name, style in styles.items():
        if isinstance(style, Projection) and style.weights:
            hint = "project its photo without --tune"
            raise InputError(f"--interpolate: {name} has weights of its own, which cannot be interpolated; {hint}")


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


def check_formats(formats: Sequence[str]) -> None:
    """Check that videos of these formats can be written; InputError if a package is missing."""
    from inference.video import check_video_format

    with user_errors("--format"):
        for name in formats:
            check_video_format(name)


def video_files(prefix: Path, name: str, show: Sequence[str], formats: Sequence[str]) -> dict[Path, str]:
    """Return the files of a video, and what each of them shows."""
    return {Path(f"{prefix}_{name}{SUFFIXES[shown]}.{end}"): shown for shown in show for end in formats}


def write_all(
    G: TriPlane,
    cfg: str,
    label_maps: Sequence[cli.Input],
    styles: Mapping[str, int | Tensor],
    poses: Tensor,
    files: Sequence[Mapping[Path, str]],
    interpolate: bool,
    fps: int,
    on_frame: Callable[[], object],
) -> None:
    """Write one video per style, or a single one that goes through all styles and label maps.

    Args:
        G: the generator.
        cfg: its cameras.
        label_maps: one or two; the pose of the first conditions all scenes.
        styles: K seeds, photos or projections by name.
        poses: F,25.
        files: of each video, and what they show.
        interpolate: make a single one.
        fps: frames per second.
        on_frame: called after each frame.
    """
    import torch

    from inference import Scene
    from inference.view import SHOWS, interpolate_views, write_videos

    # Outputs that no video shows are not rendered.
    outputs = set().union(*(SHOWS[shown] for shown in files[0].values()))

    # Scenes are made as they are asked for, so that any number of styles fits into memory.
    pose = label_maps[0].pose
    scenes = [Scene.from_styles(G, source.label_map, styles.values(), pose, cfg) for source in label_maps]
    if not interpolate:
        for paths, scene in zip(files, scenes[0], strict=True):
            write_videos(scene.views(poses, outputs), paths, fps, on_frame)
        return

    # Only the ws are kept: tri-planes of interpolated scenes are computed per frame.
    ws = [torch.cat([scene.ws for scene in by_style]) for by_style in scenes]  # K,num_ws,w_dim for each label map
    write_videos(interpolate_views(G, torch.stack(ws, dim=1), poses, outputs), files[0], fps, on_frame)


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
    cli.option("show", ChoiceList(SHOW_NAMES), "color,label", "What the videos show, one video for each.",
               metavar=",".join(SHOW_NAMES)),
    click.option("--format", "formats", type=ChoiceList(VIDEO_FORMATS), default="gif", show_default=True,
                 metavar=",".join(VIDEO_FORMATS),
                 help='File formats, one or both. mp4 needs pip install -e ".[video]".'),
    cli.option("fps", click.IntRange(1, 240), FPS, "Frames per second. A gif has delays in steps of 10 ms and 50 "
               "frames per second at most."),
)  # fmt: skip
@cli.device_options
@overwrite_option
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, seeds: list[int],
    style: tuple[str, ...], path: str, frames: int | None, fps: int, formats: list[str], show: list[str],
    interpolate: bool, to: str | None, outputs: Outputs, **source: Any,
) -> None:  # fmt: skip
    """Make videos of the scene of a label map, and of its label map; without --input of sample 0 of the data set.

    Writes CFG_input.png (of a sample: CFG_N_input.png) and for each seed CFG_SEED.gif and CFG_SEED_label.gif, with
    --show also CFG_SEED_side_by_side.gif and CFG_SEED_depth.gif. For a photo of --style, SEED is style-PHOTO. With
    --interpolate, it is all of them, like 3-9-5 (of a long list the first and the last), and with --to it is 3-to-NAME.
    With several --input or a directory, all names begin with CFG_NAME in place of CFG, where NAME is that of the file.

    \b
    Examples:
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 1 --input applications/assets/cat.png --format gif,mp4
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 0 1 2 --interpolate --path turn --input applications/assets/cat.png
    """
    # Check the options before the weights, which can be a long download.
    named_styles = cli.name_styles(seeds, style)
    if not source["input_files"] and source["input_id"] is None:
        source["input_id"] = 0
    inputs = cli.InputOptions(**source)
    sources = inputs.check()
    if to is not None:
        cli.check_is_file("--to", to)
    poses = read_trajectory(path, frames)
    count = len(poses) if poses is not None else frames or PATH_FRAMES
    check_interpolation(interpolate, to, len(named_styles), count)
    cli.announce(network, outdir)
    check_formats(formats)
    G = cli.load_generator(network, cfg, device, precision)

    # These import PyTorch.
    from camera_utils import CAMERAS, path_poses
    from inference.generator import config_of

    # Names of all files, then photos and the label map at the end.
    cfg = cfg or config_of(G)
    prefixes = {name: outdir / (f"{cfg}_{name}" if inputs.are_several else cfg) for name in sources}
    names = [interpolation_name(list(named_styles), to)] if interpolate else list(named_styles)
    files = {source: [video_files(prefix, name, show, formats) for name in names]
             for source, prefix in prefixes.items()}  # fmt: skip
    outputs.claim(*(path for videos in files.values() for paths in videos for path in paths))
    styles = cli.read_styles(G, named_styles)
    if interpolate:
        check_weights(styles)
    target = [] if to is None else [cli.read_label_map_file("--to", to, G, inputs.label_map_options())]
    drawings = {name: prefix if inputs.input_files else f"{prefix}_{name}" for name, prefix in prefixes.items()}
    write_drawing = cli.claim_drawings(outputs, inputs.read(G, cfg, sources), drawings, G.data_type)

    # Render frame by frame into all files of a video.
    if poses is None:
        poses = path_poses(path, CAMERAS[cfg], count, **G.orbit)
    bar = tqdm(total=count * len(names) * len(sources), unit="frame", delay=2, disable=None)  # None: only on a terminal
    with cli.output_errors(), bar:
        for label_input in inputs.read(G, cfg, sources):
            write_drawing[label_input.name]()
            label_maps = [label_input, *target]
            write_all(G, cfg, label_maps, styles, poses, files[label_input.name], interpolate, fps, bar.update)


if __name__ == "__main__":
    main()
