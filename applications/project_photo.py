"""Project a photo into the model: find the scene that reproduces it, to turn it, to paint on it, to reuse its style."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from applications import cli
from dnnlib.cli import Command, InputError, echo, option_group, overwrite_option, user_errors
from dnnlib.outputs import Outputs

if TYPE_CHECKING:  # these import PyTorch
    import numpy as np
    from torch import Tensor, nn

    from inference import Scene
    from inference.projector import Projector

# Words for poses: seen from the front, and found by a search that starts there.
FRONT = "front"
SEARCH = "search"
POSE_NUMBERS = 25
# Relative difference of the ratios of width to height of a photo and its label map.
RATIO_TOLERANCE = 0.01
# Frames of the video, and frames per second.
FRAMES = 48
FPS = 24
# Options of the fields in messages.
FIELDS = {"photo": "target", "label_map": "input_file"}


def read_pose(text: str) -> Tensor | None:
    """Read a pose (1,25): numbers, or a JSON file; None for a word.

    Raises:
        InputError: none of them, or not a pose.
    """
    if text in (FRONT, SEARCH):
        return None
    numbers = parse_numbers(text)
    if numbers is None and not Path(text).is_file():
        allowed = f"{FRONT}, {SEARCH}, {POSE_NUMBERS} numbers, or a JSON file of one pose"
        raise InputError(f"--pose {text}: expected {allowed}")

    from dnnlib.json_files import read_json
    from training.data.pose_files import check_poses, read_poses

    # Files hold 25 numbers, or a list of poses as other options take them.
    with user_errors("--pose"):
        rows = read_json(text) if numbers is None else numbers
        is_one = isinstance(rows, list) and bool(rows) and not any(isinstance(row, list) for row in rows)
        poses = check_poses([rows], text) if is_one else read_poses(text)
    if len(poses) != 1:
        raise InputError(f"--pose {text}: holds {len(poses)} poses, expected one")
    return poses


def parse_numbers(text: str) -> list[float] | None:
    """Return several numbers, separated by commas or spaces; None if the text is anything else."""
    words = text.replace(",", " ").split()
    with suppress(ValueError):
        if len(words) > 1:
            return [float(word) for word in words]
    return None


def read_photo(target: str, input_file: str, fit: str | None) -> Tensor:
    """Read a photo as a square 1,3,H,H; its label map shows the same, so it has the same ratio of width to height.

    Raises:
        InputError: not a photo, or another shape than the label map or than a square.
    """
    import numpy as np

    from inference.inputs import to_photo
    from training.data.image_io import decode_rgb

    # Sizes of the upright images, which are turned when they are decoded.
    sizes = []
    for option, path in (("--target", target), ("--input", input_file)):
        with user_errors(option):
            try:
                sizes.append(decode_rgb(Path(path).read_bytes()).size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    (width, height), (label_width, label_height) = sizes
    with user_errors("--target"):
        photo = to_photo(target)

    # Within a pixel or so of rounding.
    if not np.isclose(width / height, label_width / label_height, rtol=RATIO_TOLERANCE):
        got = f"{label_width}x{label_height} pixels, but --target has {width}x{height}"
        raise InputError(f"--input {input_file}: {got}; a label map shows the same as its photo, pixel by pixel")
    if width != height and fit is None:
        hint = "--fit crop takes the center of photo and label map"
        raise InputError(f"--target {target}: {width}x{height} pixels, expected a square; {hint}")
    return photo


def load_distance(weights: Path | None) -> nn.Module | None:
    """Load LPIPS, if the file of VGG16's weights is given.

    Raises:
        InputError: it is not that file, or the package is missing.
    """
    if weights is None:
        return None
    from dnnlib.errors import ConfigError
    from training.perceptual import load_lpips

    try:
        return load_lpips(weights)
    except ConfigError as error:
        # Its hint is about training.
        reason = str(error).partition(": ")[2].partition(";")[0]
        raise InputError(f"--lpips_weights {reason}; leave the option out to project without LPIPS") from error


def run(projector: Projector) -> None:
    """Run all steps with progress bars that show the losses; Ctrl-C ends them.

    Raises:
        KeyboardInterrupt: before anything has been found.
    """
    bars: dict[str, tqdm] = {}
    with ExitStack() as stack:
        try:
            for progress in projector.steps():
                # One bar for each phase; only on a terminal.
                if progress.phase not in bars:
                    bar = tqdm(total=progress.total, desc=progress.phase, unit="step", disable=None)
                    bars[progress.phase] = stack.enter_context(bar)
                losses = {name: f"{value:.3f}" for name, value in progress.losses.items()}
                bars[progress.phase].set_postfix(losses, refresh=False)
                bars[progress.phase].update()
        except KeyboardInterrupt:
            if not projector.has_result:
                raise
            echo("Stopped: the best so far is kept.", err=True)


def compare(projector: Projector, scene: Scene) -> np.ndarray:
    """Print how well a scene reproduces the photo; return photo, scene and its label map side by side, H,W,3."""
    import numpy as np

    from metrics.image_similarity import psnr, ssim
    from training.data.label_maps import draw_image

    view = scene.render(pose=projector.pose)
    image = view.tensors["image"].clamp(-1, 1)
    same = (view.label_map == projector.label_map[0, 0].cpu().numpy()).mean()
    labels = f", {same:.0%} of the labels" if scene.G.data_type == "seg" else ""
    similarity = f"PSNR {psnr(image, projector.photo).item():.1f} dB, SSIM {ssim(image, projector.photo).item():.2f}"
    echo(f"The scene reproduces the photo with {similarity}{labels}.")
    return np.concatenate([draw_image(projector.photo)[0], view.frame("color"), view.frame("label")], axis=1)


@click.command(cls=Command, fields=FIELDS)
@option_group(
    "Input",
    click.option("--target", required=True, metavar="PHOTO", help="Square photo, PNG or JPEG."),
    click.option("--input", "input_file", required=True, metavar="FILE",
                 help="Label map of the photo, pixel by pixel; it may have another resolution."),
    *cli.LABEL_MAP_OPTIONS[:2],
    cli.option("fit", click.Choice(["crop"]), None, "Take the center of a photo and a label map that are not square."),
    cli.option("pose", str, FRONT, "Camera of the photo. front: straight from the front. search: found from the label "
               "map. Or 25 numbers, or a JSON file of them.", metavar=f"{FRONT}|{SEARCH}|NUMBERS|FILE.json"),
)  # fmt: skip
@cli.model_options
@option_group(
    "Projection",
    cli.option("steps", click.IntRange(1, 100_000), 100, "Steps of the latent code."),
    cli.option("tune", click.IntRange(0, 100_000), 0, "Steps that change the network's weights afterwards: closer to "
               "the photo, but the file holds these weights.", metavar="STEPS"),
    cli.option("seeds", click.IntRange(1, 1000), 8, "Seeds of which the best is the start, for networks without a "
               "style encoder."),
    cli.option("lpips_weights", click.Path(path_type=Path, exists=True, dir_okay=False), None, "File of VGG16's "
               "weights, vgg16-397923af.pth: compare images by LPIPS too, for large networks.", metavar="FILE"),
)  # fmt: skip
@option_group(
    "Output",
    cli.outdir_option,
    click.option("--film/--no-film", "video", default=True, show_default=True,
                 help="Also write a video of the scene from a moving camera."),
)  # fmt: skip
@cli.device_options
@overwrite_option
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, target: str, input_file: str,
    classes: Path | None, ignore: int | None, fit: str | None, pose: str, steps: int, tune: int,
    seeds: int, lpips_weights: Path | None, video: bool, outputs: Outputs,
) -> None:  # fmt: skip
    """Find the scene that reproduces a photo with a known label map.

    Writes PHOTO_projection.safetensors, which other applications and the editor take as --style; PHOTO_comparison.png,
    the photo beside the scene and its label map; and PHOTO_turn.gif. Ctrl-C ends the search and writes the best so far.

    \b
    Examples:
      python applications/project_photo.py --network cat.pt --outdir out --target ginger.png --input ginger_labels.png
      python applications/generate_samples.py --network cat.pt --outdir out --input applications/assets/cat.png \\
          --style out/ginger_projection.safetensors
    """
    # Check the options before the weights, which can be a long download.
    cli.check_is_file("--target", target)
    cli.check_is_file("--input", input_file)
    prefix = outdir / Path(target).stem
    files = [Path(f"{prefix}_{name}") for name in ("projection.safetensors", "comparison.png", "turn.gif")[: 2 + video]]
    outputs.claim(*files)
    cli.announce(network, outdir)
    photo = read_photo(target, input_file, fit)
    start = read_pose(pose)
    perceptual = load_distance(lpips_weights)
    options = cli.label_map_options(classes, ignore, fit)
    G = cli.load_generator(network, cfg, device, precision)

    # These import PyTorch.
    from inference import Scene
    from inference.projector import ProjectionOptions, Projector
    from training.data.image_io import write_png

    # Project.
    label_map = cli.read_label_map_file("--input", input_file, G, options).label_map
    settings = ProjectionOptions(steps, tune, seeds, search_pose=pose == SEARCH)
    if perceptual is not None:
        perceptual.to(label_map.device)
    projector = Projector(G, photo, label_map, start, cfg, settings, perceptual)
    run(projector)
    projection = projector.result()

    # Write the projection before what shows it, which an interruption may prevent.
    scene = Scene.from_label_map(G, label_map, pose=projector.pose, cfg=cfg, style=projection)
    with cli.output_errors():
        outdir.mkdir(parents=True, exist_ok=True)
        projection.save(files[0])
        write_png(files[1], compare(projector, scene))
        if video:
            scene.video(files[2], FRAMES, FPS)


if __name__ == "__main__":
    main()
