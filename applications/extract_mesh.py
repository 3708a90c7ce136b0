"""Label map in, mesh out: the surface of the scene with its labels as colors, and a film of it."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common
from camera_utils import CAMERAS, PATH_FRAMES, orbit_positions, path_poses
from dnnlib.cli import Command, InputError, Several, user_errors
from inference.mesh.colors import COLORS
from inference.mesh.extraction import extract_mesh
from inference.mesh.rasterize import FILM_VIEWS, gl_problem, half_width_of, render_mesh
from inference.mesh.surface import PUBLISHED_THRESHOLD, EmptyMeshError, NoSurfaceError
from inference.mesh.triangles import MESH_WRITERS, Mesh, check_libraries
from inference.video import FPS
from torch_utils.host_memory import free_memory
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map
from training.networks.configs import CONFIGS
from training.networks.generator import TriPlane

LARGEST_RESOLUTION = 1024  # 4.3 GB of densities
BYTES_PER_POINT = 9  # of the grid: 4 for its density, the rest for the mesh; measured at 512, with some room
MOST_SMOOTHING = 1000
FILM_SIZE = 512  # pixels


class Threshold(click.ParamType):
    """A density, or the word auto."""

    name = "density"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value}: expected a number or auto", param, ctx)
        return number


@torch.inference_mode()
def scene(G: TriPlane, label_map: Tensor, pose: Tensor, seed: int) -> Tensor:
    """Planes 1,3,C,H,W of a label map 1,1,H,W; pose 1,25 to condition on."""
    return common.scene_planes(G, common.scene_ws(G, G.encode({"mask": label_map}), pose, seed))


def check_memory(resolution: int) -> None:
    """InputError where the density grid, and the mesh that is made of it, need more memory than is free."""
    free = free_memory()
    needed = BYTES_PER_POINT * resolution**3
    if free is not None and needed > free:
        fits = int((free / BYTES_PER_POINT) ** (1 / 3))
        raise InputError(
            f"--resolution {resolution}: needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free; "
            f"{fits} or less would do"
        )


def write_film(mesh: Mesh, path: Path, G: TriPlane, cfg: str, frames: int, fps: int) -> None:
    """Film a mesh on the config's orbit; says so where there is no OpenGL."""
    view = FILM_VIEWS[CONFIGS[cfg].camera]
    poses = path_poses("orbit", CAMERAS[cfg], frames, **{**G.orbit, "radius": view.radius})
    problem = gl_problem()
    if problem:
        click.echo(f"No off-screen OpenGL ({problem}): numpy draws the film, which takes longer.")
    half_width = max(view.half_width * mesh.box_warp, half_width_of(mesh, poses))
    # Closed here, also when interrupted: what OpenGL holds must not outlive Python, which can crash at its end.
    with closing(render_mesh(mesh, poses, FILM_SIZE, half_width, impl="plain" if problem else "gl")) as pictures:
        bar = tqdm(pictures, total=len(poses), desc="film", unit="frame", delay=2, disable=None)
        common.write_videos(({"mesh": frame} for frame in bar), {path: "mesh"}, fps)


@click.command(cls=Command)
@common.model_options
@common.input_options
@click.option("--random_seed", "seed", type=click.IntRange(0, common.MAX_SEED), default=0, show_default=True)
@click.option(
    "--format",
    "formats",
    type=Several(ending.removeprefix(".") for ending in MESH_WRITERS),
    default="ply",
    show_default=True,
    metavar="ply,obj,glb",
    help="One or more.",
)
@click.option(
    "--color",
    "--colour",
    "color",
    type=click.Choice([*COLORS, "none"]),
    help="Of the vertices: the label at each, as published; the label or the color that the model's own pictures show "
    "there, of what lies beneath.  [default: label; for edges none]",
)
@click.option(
    "--resolution",
    type=click.IntRange(8, LARGEST_RESOLUTION),
    default=512,
    show_default=True,
    help="Points of the density grid on a side.",
)
@click.option(
    "--threshold",
    type=Threshold(),
    default=PUBLISHED_THRESHOLD,
    show_default=True,
    metavar="DENSITY|auto",
    help="Raw density of the surface; auto finds the one that parts this scene into air and matter best.",
)
@click.option("--largest", is_flag=True, help="Keep the largest connected piece only.")
@click.option("--closed", is_flag=True, help="Watertight: close the surface where the scene's box cuts it.")
@click.option(
    "--smooth",
    type=click.IntRange(0, MOST_SMOOTHING),
    default=0,
    show_default=True,
    metavar="N",
    help="At most so many rounds of smoothing: as many as keep the volume of a closed mesh within 1 %.",
)
@click.option(
    "--without",
    type=click.IntRange(0, 31),
    metavar="CLASS",
    help="Take matter of this class for air: 0, the background, where a network models it as matter.",
)
@click.option("--film/--no-film", default=True, show_default=True, help="Write rendered_mesh.gif ...")
@click.option("--frames", type=click.IntRange(1, 100_000), help=f"... so long ...  [default: {PATH_FRAMES}]")
@click.option("--fps", type=click.IntRange(1, 240), help=f"... at so many a second, at most 50.  [default: {FPS}]")
def main(
    network: str,
    outdir: Path,
    cfg: str,
    device: str | None,
    precision: str,
    seed: int,
    formats: list[str],
    color: str | None,
    resolution: int,
    threshold: float | str,
    largest: bool,
    closed: bool,
    smooth: int,
    without: int | None,
    film: bool,
    frames: int | None,
    fps: int | None,
    **source: Any,
) -> None:
    """Make a colored triangle mesh of the scene that a label map describes.

    Writes CFG_NAME_input.png, semantic_mesh.ply (networks of edges: CFG_mesh.ply) and rendered_mesh.gif.
    The mesh is in the network's world units: a cube of side 1 (cars 1.6) about the origin, x to the right seen from
    the front, y up, z towards the viewer; the files say so themselves.

    \b
    Example:
      python applications/extract_mesh.py --network cat.pt --outdir out --cfg seg2cat \\
          --input applications/assets/cat.png --format ply,glb --threshold auto
    """
    with user_errors("--format"):
        check_libraries()
    if not film and (frames or fps):
        raise InputError(f"{'--frames' if frames else '--fps'}: goes with a film, not with --no-film")
    check_memory(resolution)
    chosen = common.check_places(device, outdir)
    given = common.read_input(cfg, **source)  # before the weights, which can be a long download
    G = common.load_generator(network, cfg, chosen, precision)
    label_map, pose = common.fit(given, G, cfg, chosen)
    if without is not None and not (G.data_type == "seg" and without < G.semantic_channels):
        known = f"0 to {G.semantic_channels - 1}" if G.data_type == "seg" else "no classes, but edges"
        raise InputError(f"--without {without}: this network knows {known}")

    color = color or ("label" if G.data_type == "seg" else "none")
    options = {"largest": largest, "closed": closed, "smooth": smooth, "without": without}
    options["color"] = None if color == "none" else color
    options["cameras"] = orbit_positions(CAMERAS[cfg], **G.orbit)
    name = "semantic_mesh" if G.data_type == "seg" else f"{cfg}_mesh"
    try:
        planes = scene(G, label_map, pose, seed)
        mesh = extract_mesh(G, planes, resolution, threshold, **options)
        if threshold == "auto":
            click.echo(f"--threshold auto: took {mesh.threshold:g}")
        if mesh.smoothed < smooth:
            click.echo(f"--smooth {smooth}: made {mesh.smoothed} rounds; more would change the volume by over 1 %")
        with user_errors("--outdir"):
            write_png(outdir / f"{cfg}_{given.name}_input.png", draw_label_map(label_map, G.data_type)[0])
            for ending in formats:
                mesh.export(outdir / f"{name}.{ending}")
        click.echo(f"Wrote {outdir}/{name}.{','.join(formats)}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
        if film:
            write_film(mesh, outdir / "rendered_mesh.gif", G, cfg, frames or PATH_FRAMES, fps or FPS)
            click.echo(f"Wrote {outdir}/rendered_mesh.gif")
    except NoSurfaceError as error:
        if isinstance(error, EmptyMeshError):
            raise InputError(f"--without {without}: {error}") from error
        hint = "" if threshold == "auto" else "; try --threshold auto"
        raise InputError(f"--threshold: {error}{hint}") from error


if __name__ == "__main__":
    main()
