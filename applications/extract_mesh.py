"""Extract a colored mesh of a label map's scene, and a video of it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

import math
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from applications import cli
from dnnlib.choices import FPS, MESH_FORMATS, PATH_FRAMES, VERTEX_COLORS
from dnnlib.cli import ChoiceList, Command, InputError, echo, option_group, overwrite_option, user_errors
from dnnlib.outputs import Outputs
from torch_utils.host_memory import free_memory

if TYPE_CHECKING:  # these import PyTorch
    from inference import Mesh, Scene
    from training.networks.generator import TriPlane

# Largest density grid: 4.3 GB.
MAX_RESOLUTION = 1024
# Memory per grid point: 4 bytes for its density, the rest for the mesh; measured at 512, rounded up.
BYTES_PER_POINT = 9
MAX_SMOOTHING = 1000
MAX_CLASS = 31


# Value of options of which the network decides, and of those that are off.
AUTO = "auto"
NONE = "none"


def parse_threshold(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | str | None:
    """Convert the text of --threshold, a density or the word auto (a callback of click)."""
    if value is None or value == AUTO:
        return value
    # float() also takes nan and inf, which are no levels.
    with suppress(ValueError):
        if math.isfinite(float(value)):
            return float(value)
    raise click.BadParameter(f"{value}: expected a number or auto")


def parse_class(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | str | None:
    """Convert the text of --without, a class or the word none (a callback of click)."""
    if value is None or value == NONE:
        return value
    if not value.isascii() or not value.isdecimal() or int(value[:9]) > MAX_CLASS:
        raise click.BadParameter(f"{value}: expected a class from 0 to {MAX_CLASS}, or {NONE}")
    return int(value)


def check_packages() -> None:
    """Check that the optional packages for meshes are installed; InputError if one is missing."""
    from inference.mesh.triangles import check_libraries

    with user_errors("--format"):
        check_libraries()


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


def extract(scene: Scene, options: dict[str, Any]) -> Mesh:
    """Extract the mesh of a scene with a progress bar, and report what the options led to.

    Args:
        scene: the scene.
        options: of `extraction_steps`.
    Raises:
        NoSurfaceError: there is no surface.
    """
    from inference.mesh.extraction import run_steps

    # The bar counts whole percents, and appears only after two seconds and on a terminal.
    with tqdm(total=100, desc="mesh", unit="%", delay=2, disable=None) as bar:
        mesh = run_steps(scene.mesh_steps(**options), lambda share: bar.update(round(100 * share) - bar.n))

    # Report what "auto" chose, and where smoothing stopped.
    if options["threshold"] == AUTO:
        echo(f"--threshold auto: took {mesh.threshold:g}")
    if mesh.smoothed < options["smooth"]:
        echo(f"--smooth {options['smooth']}: made {mesh.smoothed} rounds; more would change the volume by over 1 %")
    return mesh


@dataclass(frozen=True)
class VideoOptions:
    """Length of the video of a mesh."""

    frames: int
    fps: int


def check_video(video: bool, frames: int | None, fps: int | None) -> VideoOptions | None:
    """Return the options of the video, None for none; InputError if some are given that have no effect."""
    # They have no default in click, so that it is known whether they were typed.
    if not video and (frames or fps):
        raise InputError(f"{'--frames' if frames else '--fps'}: sets the video, which --no-film turns off")
    return VideoOptions(frames or PATH_FRAMES, fps or FPS) if video else None


def mesh_files(outdir: Path, cfg: str, data_type: str, name: str) -> tuple[Path, Path]:
    """Return the path of a mesh without its ending, and of its video; published names if `name` is empty."""
    if name:
        stem = outdir / f"{cfg}_{name}_mesh"
        return stem, stem.with_name(f"{stem.name}.gif")
    return outdir / ("semantic_mesh" if data_type == "seg" else f"{cfg}_mesh"), outdir / "rendered_mesh.gif"


def complete_options(G: TriPlane, given: dict[str, Any]) -> dict[str, Any]:
    """Return options of a mesh, where None stands for what suits the network; say so if that is not as published."""
    from inference.mesh.extraction import network_options

    suitable = network_options(G)
    chosen = {name: value for name, value in suitable.items() if given[name] is None}
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in chosen.items()
             if value is not None and value is not False]  # fmt: skip
    if suitable["threshold"] == AUTO and flags:
        echo(f"Chosen for this network: {' '.join(flags)}")
    options = {name: suitable[name] if value is None else value for name, value in given.items()}
    # The word for what is off.
    return {name: None if value == NONE else value for name, value in options.items()}


def write_video(mesh: Mesh, cfg: str, pivot: Any, path: Path, options: VideoOptions) -> None:
    """Write the video of a mesh, on the published path of a configuration's cameras about a pivot."""
    from inference.mesh.rasterize import orbit_frames
    from inference.video import open_video

    # Closed here even when interrupted: an OpenGL context that outlives Python can crash at exit.
    images = orbit_frames(mesh, cfg, pivot, options.frames, notify=echo)
    with closing(images), open_video(path, options.fps) as write:
        for image in tqdm(images, total=options.frames, desc="video", unit="frame", delay=2, disable=None):
            write(image)


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
    cli.option("threshold", str, None, "Raw density of the surface. auto: the density at which rays into this scene "
               "have lost half of their light.  [default: 50 for published networks, else auto]",
               metavar="DENSITY|auto", callback=parse_threshold),
    cli.option("color", click.Choice([*VERTEX_COLORS, NONE]), None, "Vertex colors. label: label at the vertex itself, "
               "as published. shown_label, image: label or color that a rendered view shows there, blended from what "
               "lies beneath the surface.  [default: label for published networks, else shown_label; for edges none "
               "and image]"),
    cli.option("largest/--no-largest", bool, None, "Keep the largest connected component only.  [default: all for "
               "published networks, else the largest]", is_flag=True),
    cli.option("closed", bool, False, "Close the surface where the scene's box cuts it (watertight mesh).",
               is_flag=True),
    cli.option("smooth", click.IntRange(0, MAX_SMOOTHING), 0, "Rounds of smoothing; fewer where the volume of a closed "
               "mesh would change by more than 1 %.", metavar="N"),
    cli.option("without", str, None, "Remove what belongs to a class, such as a background (0) that the network models "
               "as solid.  [default: 0 for networks that say so, else none]", metavar="CLASS|none",
               callback=parse_class),
)  # fmt: skip
@option_group(
    "Output",
    cli.outdir_option,
    click.option("--format", "formats", type=ChoiceList(MESH_FORMATS), default="ply", show_default=True,
                 metavar=",".join(MESH_FORMATS), help="File formats of the mesh, one or more."),
    click.option("--film/--no-film", "video", default=True, show_default=True,
                 help="Also write a video, rendered_mesh.gif."),
    cli.option("frames", click.IntRange(1, 100_000), None, f"Frames of the video.  [default: {PATH_FRAMES}]"),
    cli.option("fps", click.IntRange(1, 240), None, "Frames per second of the video; a gif has 50 at most.  "
               f"[default: {FPS}]"),
)  # fmt: skip
@cli.device_options
@overwrite_option
def main(
    network: str, outdir: Path, cfg: str | None, device: str | None, precision: str, random_seed: int | None,
    style: str | None, formats: list[str], video: bool, frames: int | None, fps: int | None, outputs: Outputs,
    resolution: int, threshold: float | str | None, color: str | None, largest: bool | None, closed: bool, smooth: int,
    without: int | str | None, **source: Any,
) -> None:  # fmt: skip
    """Extract a colored triangle mesh of the scene of a label map.

    Writes CFG_NAME_input.png, semantic_mesh.ply (networks of edges: CFG_mesh.ply) and rendered_mesh.gif, with several
    --input or a directory CFG_NAME_mesh.ply and CFG_NAME_mesh.gif, where NAME is that of the file.
    The mesh is in the network's world units: a cube of side 1 (cars 1.6) about the origin, x to the right seen from
    the front, y up, z towards the viewer. The files record this in their headers.

    \b
    Example:
      python applications/extract_mesh.py --network cat.pt --outdir out --cfg seg2cat \\
          --input applications/assets/cat.png --format ply,glb
    """
    # Check the options before the weights, which can be a long download.
    video_options = check_video(video, frames, fps)
    if style is not None and random_seed is not None:
        raise InputError("--random_seed, --style: expected one of them, got both")
    named_style = cli.name_styles([] if random_seed is None else [random_seed], [] if style is None else [style])
    inputs = cli.InputOptions(**source)
    sources = inputs.check()
    check_memory(resolution)
    cli.announce(network, outdir)
    check_packages()
    G = cli.load_generator(network, cfg, device, precision)

    # These import PyTorch.
    from inference import Scene
    from inference.generator import config_of

    # Names of all files, and the photo.
    cfg = cfg or config_of(G)
    files = {name: mesh_files(outdir, cfg, G.data_type, name if inputs.are_several else "") for name in sources}
    for stem, film in files.values():
        outputs.claim(*(f"{stem}.{ending}" for ending in formats), *([film] if video_options else []))
    styles = cli.read_styles(G, named_style).values()
    drawings = {name: outdir / f"{cfg}_{name}" for name in sources}
    write_drawing = cli.claim_drawings(outputs, inputs.read(G, cfg, sources), drawings, G.data_type)

    # Options of the mesh: those given, else those that suit the network.
    given = {"threshold": threshold, "color": color, "largest": largest, "without": without}
    options = {"resolution": resolution, "closed": closed, "smooth": smooth, **complete_options(G, given)}

    # Write the files, the mesh before the video: an interruption keeps what is complete.
    with cli.output_errors():
        for label_input in inputs.read(G, cfg, sources):
            scene = next(Scene.from_styles(G, label_input.label_map, styles, label_input.pose, cfg))

            # Without a surface nothing is written.
            mesh = extract(scene, options)
            write_drawing[label_input.name]()

            stem, film = files[label_input.name]
            for ending in formats:
                mesh.export(f"{stem}.{ending}")
            echo(f"{stem}.{','.join(formats)}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
            if video_options:
                write_video(mesh, cfg, G.orbit["pivot"], film, video_options)


if __name__ == "__main__":
    main()
