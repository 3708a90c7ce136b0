"""Label map in, films out: the scene of each seed and its label map, seen from a camera that moves around it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common
from camera_utils import CAMERAS, PATH_FRAMES, PATHS, path_poses, read_poses
from dnnlib.cli import Command, InputError, Several, user_errors
from inference.video import ENCODERS, FPS, check_video_format, render_views
from training.data.image_io import write_png
from training.data.label_maps import draw_image, draw_label_map, draw_semantic, read_label_map
from training.networks.configs import CONFIGS
from training.networks.generator import TriPlane

WS_AT_ONCE = 64  # on the way between two scenes, so that memory does not grow with the film
NAME_LENGTH = 60  # of the seeds in a file's name

# --------------------------------------------------------------------------- what a frame shows


def _color(out: Mapping[str, Tensor], pose: Tensor, G: TriPlane) -> np.ndarray:
    return draw_image(out["image"])[0]


def _label(out: Mapping[str, Tensor], pose: Tensor, G: TriPlane) -> np.ndarray:
    picture = draw_semantic(out["semantic"], G.data_type)[0]
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def _side_by_side(out: Mapping[str, Tensor], pose: Tensor, G: TriPlane) -> np.ndarray:
    return np.concatenate([_color(out, pose, G), _label(out, pose, G)], axis=1)


def _depth(out: Mapping[str, Tensor], pose: Tensor, G: TriPlane) -> np.ndarray:
    """Near is bright: white where the box of the scene begins, black where it ends, measured through its middle.

    So every frame of every film is drawn to one scale. The depth is rendered at the raw resolution; its pixels are
    shown larger, not blended, for between them nothing is known.
    """
    box = G.rendering_kwargs["box_warp"]
    farthest = pose[[3, 7, 11]].norm() + box / 2
    brightness = ((farthest - out["image_depth"]) / box).clamp(0, 1)
    gray = (F.interpolate(brightness, size=G.img_resolution, mode="nearest")[0, 0] * 255).round().to(torch.uint8)
    return np.repeat(gray.cpu().numpy()[..., None], 3, axis=2)


SHOWS = {"color": _color, "label": _label, "side_by_side": _side_by_side, "depth": _depth}
OUTPUTS = {  # of the network, for each
    "color": {"image"},
    "label": {"semantic"},
    "side_by_side": {"image", "semantic"},
    "depth": {"image_depth"},
}
ENDINGS = {"color": "", "label": "_label", "side_by_side": "_side_by_side", "depth": "_depth"}  # of file names

# --------------------------------------------------------------------------- scenes


@torch.inference_mode()
def scenes(G: TriPlane, label_maps: Iterable[Tensor], pose: Tensor, seeds: Iterable[int]) -> Iterator[Tensor]:
    """ws M,num_ws,w_dim of each seed, for every one of M label maps 1,1,H,W, which are encoded once."""
    encoded = [G.encode({"mask": label_map}) for label_map in label_maps]
    for seed in seeds:
        yield torch.cat([common.scene_ws(G, e, pose, seed) for e in encoded])


def films(
    G: TriPlane, label_maps: Iterable[Tensor], pose: Tensor, seeds: list[int], name: str | None
) -> Iterator[tuple[str, Tensor]]:
    """Name and ws K,M,num_ws,w_dim (K seeds, M label maps) of each film: one a seed, or one, `name`, through all."""
    of_seeds = scenes(G, label_maps, pose, seeds)
    if name is None:
        yield from ((str(seed), ws[None]) for seed, ws in zip(seeds, of_seeds, strict=True))
    else:
        yield name, torch.stack(list(of_seeds))


def name_between(seeds: list[int], to: str | None) -> str:
    """Name of a film through these seeds, and to the label map of that file; other ways have other names.

    What a name does not say of a way, because it is too long or in another folder, is in 8 digits at its end.
    """
    name = "-".join(map(str, seeds))
    if len(name) > NAME_LENGTH:
        name = f"{seeds[0]}-{seeds[-1]}-{_digits(name)}"
    if to is None:
        return name
    file = Path(to)
    whole = file.parent == Path() and len(file.stem) <= NAME_LENGTH
    return f"{name}-to-{file.stem[:NAME_LENGTH]}{'' if whole else '-' + _digits(str(file))}"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@torch.inference_mode()
def views(G: TriPlane, keys: Tensor, poses: Tensor, outputs: set[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """`render_views` of F,25 poses of the one scene in keys 1,1,num_ws,w_dim, or on the way through K,M of them."""
    if keys.shape[:2] == (1, 1):
        yield from render_views(G, keys[0], common.scene_planes(G, keys[0]), poses, outputs=outputs)
        return
    common.scene_planes(G, keys[0, :1])  # finite, or refused
    time = torch.linspace(0, 1, len(poses), device=keys.device)
    for part, at in zip(poses.split(WS_AT_ONCE), time.split(WS_AT_ONCE), strict=True):
        yield from render_views(G, interpolate(keys, at), None, part, outputs=outputs)


def interpolate(keys: Tensor, time: Tensor) -> Tensor:
    """ws T,num_ws,w_dim at times T in [0, 1] from the first seed and label map to the last of both.

    Args:
        keys: K,M,num_ws,w_dim of K seeds and one or two label maps; neighbors are joined by straight lines in ws.
    """
    if len(keys) == 1:
        by_map = keys.expand(len(time), -1, -1, -1)
    else:
        position = time * (len(keys) - 1)
        before = position.long().clamp(max=len(keys) - 2)
        by_map = torch.lerp(keys[before], keys[before + 1], (position - before).view(-1, 1, 1, 1))  # T,M,num_ws,w_dim
    return torch.lerp(by_map[:, 0], by_map[:, -1], time.view(-1, 1, 1))


# --------------------------------------------------------------------------- the command


def poses_of_file(path: str, frames: int | None) -> Tensor | None:
    """Poses F,25 of a --path that is a file; None for one of PATHS.

    Raises:
        InputError: neither, or a file that goes with no such --frames.
    """
    if path in PATHS:
        return None
    if not Path(path).exists():
        raise InputError(f"--path {path}: expected {', '.join(PATHS)} or a JSON file of poses; there is no such file")
    with user_errors("--path"):
        poses = read_poses(path)
    if frames is not None:
        raise InputError(f"--frames: goes with --path {' or '.join(PATHS)}; {path} holds {len(poses)} poses")
    return poses


def read_inputs(cfg: str, seeds: list[int], interpolated: bool, to: str | None, source: dict) -> list[common.Input]:
    """The label map of `common.input_options`, sample 0 where they say nothing, and the one of --to.

    Raises:
        InputError: one that cannot be read, or nothing to interpolate between.
    """
    if to is not None and not interpolated:
        raise InputError("--to: goes with --interpolate")
    if interpolated and len(seeds) == 1 and to is None:
        raise InputError("--interpolate: expected several --random_seed, or --to with a second label map")
    given = [common.read_input(cfg, **source)]
    if to is not None:
        config = CONFIGS[cfg]
        with user_errors("--to"):
            given.append(common.Input("to", read_label_map(to, config.data_type, config.channels), None))
    return given


@click.command(cls=Command)
@common.model_options
@common.input_options
@common.seeds_option("film")
@click.option(
    "--path",
    default="orbit",
    show_default=True,
    metavar="orbit|turn|FILE.json",
    help="orbit: the published swing around the front (cars: all around). turn: once around. FILE.json: a list of "
    "poses, 25 numbers each, or the dataset.json of a data set.",
)
@click.option(
    "--frames", type=click.IntRange(1, 100_000), help=f"[default: {PATH_FRAMES}, or as many as FILE.json has]"
)
@click.option(
    "--fps",
    type=click.IntRange(1, 240),
    default=FPS,
    show_default=True,
    help="Frames a second. A gif keeps time in steps of 10 ms and is never shown faster than 50: at 60 it runs at 50.",
)
@click.option(
    "--format",
    "formats",
    type=Several(ENCODERS),
    default="gif",
    show_default=True,
    metavar="gif,mp4",
    help='One or both. mp4 needs pip install -e ".[video]".',
)
@click.option(
    "--show",
    type=Several(SHOWS),
    default="color,label",
    show_default=True,
    metavar=",".join(SHOWS),
    help="Any of these, a film each.",
)
@click.option("--interpolate", "interpolated", is_flag=True, help="One film from the first seed through all others.")
@click.option("--to", metavar="FILE", help="With --interpolate: the film goes to this label map at the same time.")
def main(
    network: str,
    outdir: Path,
    cfg: str,
    device: str | None,
    precision: str,
    seeds: list[int],
    path: str,
    frames: int | None,
    fps: int,
    formats: list[str],
    show: list[str],
    interpolated: bool,
    to: str | None,
    **source: Any,
) -> None:
    """Make films of the scene that a label map describes, and of its label map; without --input of sample 0.

    Writes CFG_input.png (of a sample: CFG_N_input.png) and for each seed CFG_SEED.gif and CFG_SEED_label.gif, with
    --show also CFG_SEED_side_by_side.gif and CFG_SEED_depth.gif. With --interpolate SEED is all of them, like 3-9-5,
    and with --to 3-to-NAME (of a file in another folder also 8 digits that stand for its path).

    \b
    Examples:
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 1 --input applications/assets/cat.png --format gif,mp4
      python applications/generate_video.py --network cat.pt --outdir out --cfg seg2cat \\
          --random_seed 0 1 2 --interpolate --path turn --input applications/assets/cat.png
    """
    chosen = common.check_places(device, outdir)
    with user_errors("--format"):
        for name in formats:
            check_video_format(name)
    own_poses = poses_of_file(path, frames)
    if source["input_file"] is None and source["input_id"] is None:
        source["input_id"] = 0
    count = frames or PATH_FRAMES if own_poses is None else len(own_poses)
    if interpolated and len(seeds) > count:
        raise InputError(f"--interpolate: {len(seeds)} seeds need as many frames, got {count}")
    given = read_inputs(cfg, seeds, interpolated, to, source)  # before the weights, which can be a long download
    G = common.load_generator(network, cfg, chosen, precision)
    label_maps, (pose, *_) = zip(*(common.fit(item, G, cfg, chosen) for item in given), strict=True)
    poses = path_poses(path, CAMERAS[cfg], count, **G.orbit) if own_poses is None else own_poses

    sample = "" if source["input_id"] is None else f"_{source['input_id']}"
    with user_errors("--outdir"):
        write_png(outdir / f"{cfg}{sample}_input.png", draw_label_map(label_maps[0], G.data_type)[0])
    total = len(poses) * (1 if interpolated else len(seeds))
    with tqdm(total=total, unit="frame", delay=2, disable=None) as bar:  # shows the time left
        between = name_between(seeds, to) if interpolated else None
        for name, keys in films(G, label_maps, pose, seeds, between):
            paths = {outdir / f"{cfg}_{name}{ENDINGS[shown]}.{end}": shown for shown in show for end in formats}
            common.write_videos(pictures(G, keys, poses.to(chosen), show, bar), paths, fps)
    click.echo(f"Wrote {outdir}/{cfg}_*.{formats[0] if len(formats) == 1 else '*'}")


def pictures(G: TriPlane, keys: Tensor, poses: Tensor, show: list[str], bar: tqdm) -> Iterator[dict[str, np.ndarray]]:
    """What each frame of a film shows, by name; moves the bar on."""
    outputs = set().union(*(OUTPUTS[shown] for shown in show))
    for pose, out in zip(poses, views(G, keys, poses, outputs), strict=True):
        yield {shown: SHOWS[shown](out, pose, G) for shown in show}
        bar.update()


if __name__ == "__main__":
    main()
