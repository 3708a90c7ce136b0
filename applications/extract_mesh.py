"""Extract a colored mesh of a label map's scene, and a video of it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

import math
from contextlib import closing, suppress
from typing import Any

import click
from tqdm import tqdm

from applications import cli
from camera_utils import PATH_FRAMES
from dnnlib.cli import ChoiceList, Command, InputError, echo, option_group, user_errors
from inference import Mesh, Scene
from inference.generator import config_of
from inference.mesh.colors import COLORS
from inference.mesh.extraction import run_steps
from inference.mesh.rasterize import orbit_frames
from inference.mesh.surface import PUBLISHED_THRESHOLD
from inference.mesh.triangles import MESH_WRITERS, check_libraries
from inference.video import FPS, open_video
from torch_utils.host_memory import free_memory
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map

# Largest density grid: 4.3 GB.
MAX_RESOLUTION = 1024
# Memory per grid point: 4 bytes for its density, the rest for the mesh; measured at 512, rounded up.
BYTES_PER_POINT = 9
MAX_SMOOTHING = 1000


def parse_threshold(_ctx: click.Context, _param: click.Parameter, value: str) -> float | str:
    """Convert the text of --threshold, a density or the word auto (a callback of click)."""
    if value == "auto":
        return value
    # float() also takes nan and inf, which are no levels.
    with suppress(ValueError):
        if math.isfinite(float(value)):
            return float(value)
    raise click.BadParameter(f"{value}: expected a number or auto")


def check_memory(resolution: int) -> None:
    """Check that the density grid and its mesh fit into the free memory.

    Raises:
        InputError: they do not.
    """
    # Running out of memory would end the process without a message. Unknown except on Linux.
    free = free_memory()
    needed = BYTES_PER_POINT * resolution**3
    if free is not None and needed > free:
        fits = int((free / BYTES_PER_POINT) ** (1 / 3))
        raise InputError(
            f"--resolution {resolution}: needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free; "
            f"expected {fits} or less"
        )


def extract(scene: Scene, resolution: int, threshold: float | str, smooth: int, **options: Any) -> Mesh:
    """Extract the mesh of a scene with a progress bar, and report what the options led to.

    Args:
        scene: the scene.
        resolution, threshold, smooth, options: see `extraction_steps`.
    Raises:
        NoSurfaceError: there is no surface.
    """
    # The bar counts whole percents, and appears only after two seconds and on a terminal.
    steps = scene.mesh_steps(resolution, threshold, smooth=smooth, **options)
    with tqdm(total=100, desc="mesh", unit="%", delay=2, disable=None) as bar:
        mesh = run_steps(steps, lambda share: bar.update(round(100 * share) - bar.n))

    # Report what "auto" chose, and where smoothing stopped.
    if threshold == "auto":
        echo(f"--threshold auto: took {mesh.threshold:g}")
    if mesh.smoothed < smooth:
        echo(f"--smooth {smooth}: made {mesh.smoothed} rounds; more would change the volume by over 1 %")
    return mesh


@click.command(cls=Command, old_names={"--colour": "--color"}, fields=cli.FIELDS)
@cli.input_options
@option_group(
    "Input",
    cli.option("random_seed", click.IntRange(0, cli.MAX_SEED), None, "Seed of the latent code.  [default: 0]"),
    cli.style_option("Photo whose style is taken in place of a seed's."),
)  # fmt: skip
@cli.model_options
@option_group(
    "Mesh",
    cli.option("resolution", click.IntRange(8, MAX_RESOLUTION), 512, "Points of the density grid on a side."),
    cli.option("threshold", str, PUBLISHED_THRESHOLD, "Raw density of the surface. auto: the density at which "
               "rays into this scene have lost half of their light.", metavar="DENSITY|auto", callback=parse_threshold),
    cli.option("color", click.Choice([*COLORS, "none"]), None, "Vertex colors. label: label at the vertex itself, as "
               "published. shown_label, image: label or color that a rendered view shows there, blended from what lies "
               "beneath the surface.  [default: label; for edges none]"),
    cli.option("largest", bool, False, "Keep the largest connected component only.", is_flag=True),
    cli.option("closed", bool, False, "Close the surface where the scene's box cuts it (watertight mesh).",
               is_flag=True),
    cli.option("smooth", click.IntRange(0, MAX_SMOOTHING), 0, "Rounds of smoothing; fewer where the volume of a closed "
               "mesh would change by more than 1 %.", metavar="N"),
    cli.option("without", click.IntRange(0, 31), None, "Remove what belongs to a class, such as a background (0) that "
               "the network models as solid.", metavar="CLASS"),
)  # fmt: skip
@option_group(
    "Output",
    cli.outdir_option,
    click.option("--format", "formats", type=ChoiceList(name.removeprefix(".") for name in MESH_WRITERS), default="ply",
                 show_default=True, metavar="ply,obj,glb", help="File formats of the mesh, one or more."),
    click.option("--film/--no-film", "video", default=True, show_default=True,
                 help="Also write a video, rendered_mesh.gif."),
    cli.option("frames", click.IntRange(1, 100_000), None, f"Frames of the video.  [default: {PATH_FRAMES}]"),
    cli.option("fps", click.IntRange(1, 240), None, "Frames per second of the video; a gif has 50 at most.  "
               f"[default: {FPS}]"),
)  # fmt: skip
@cli.device_options
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, random_seed: int | None,
    style: str | None, formats: list[str], color: str | None, without: int | None, resolution: int,
    threshold: float | str, largest: bool, closed: bool, smooth: int, video: bool, frames: int | None,
    fps: int | None, **source: Any,
) -> None:  # fmt: skip
    """Extract a colored triangle mesh of the scene of a label map.

    Writes CFG_NAME_input.png, semantic_mesh.ply (networks of edges: CFG_mesh.ply) and rendered_mesh.gif.
    The mesh is in the network's world units: a cube of side 1 (cars 1.6) about the origin, x to the right seen from
    the front, y up, z towards the viewer. The files record this in their headers.

    \b
    Example:
      python applications/extract_mesh.py --network cat.pt --outdir out --cfg seg2cat \\
          --input applications/assets/cat.png --format ply,glb --threshold auto
    """
    # Check the options before the weights, which can be a long download.
    with user_errors("--format"):
        check_libraries()
    # Options of the video have no default in click, so that it is known whether they were typed.
    if not video and (frames or fps):
        raise InputError(f"{'--frames' if frames else '--fps'}: sets the video, which --no-film turns off")
    if style is not None and random_seed is not None:
        raise InputError("--random_seed, --style: expected one of them, got both")
    check_memory(resolution)
    torch_device = cli.check_places(device, outdir)
    cli.check_input(**source)
    named_style = cli.name_styles([] if random_seed is None else [random_seed], [] if style is None else [style])
    G = cli.load_generator(network, cfg, torch_device, precision)
    cfg = cfg or config_of(G)
    label_input = cli.read_input(G, cfg, **source)
    styles = cli.read_styles(G, named_style).values()

    # Extract the mesh. Edges have no classes to color by; "none" is the option's word for no colors.
    scene = next(Scene.from_styles(G, label_input.label_map, styles, label_input.pose, cfg))
    color = {None: "label" if G.data_type == "seg" else None, "none": None}.get(color, color)
    cleaning = {"largest": largest, "closed": closed, "smooth": smooth}
    mesh = extract(scene, resolution, threshold, color=color, without=without, **cleaning)

    # Write the files, the mesh before the video: an interruption keeps what is complete.
    name = "semantic_mesh" if G.data_type == "seg" else f"{cfg}_mesh"
    with cli.output_errors():
        write_png(outdir / f"{cfg}_{label_input.name}_input.png", draw_label_map(label_input.label_map, G.data_type)[0])
        for ending in formats:
            mesh.export(outdir / f"{name}.{ending}")
        echo(f"Wrote {outdir}/{name}.{','.join(formats)}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
        if video:
            count = frames or PATH_FRAMES
            # Closed here even when interrupted: an OpenGL context that outlives Python can crash at exit.
            images = orbit_frames(mesh, cfg, G.orbit["pivot"], count, notify=echo)
            with closing(images), open_video(outdir / "rendered_mesh.gif", fps or FPS) as write:
                for image in tqdm(images, total=count, desc="video", unit="frame", delay=2, disable=None):
                    write(image)
            echo(f"Wrote {outdir}/rendered_mesh.gif")


if __name__ == "__main__":
    main()
