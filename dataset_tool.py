"""Make, convert, check and show data sets."""

from __future__ import annotations

import dnnlib.startup  # noqa: F401 first

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from tqdm import tqdm

from dnnlib.choices import CAMERA_NAMES, DATA_TYPES, TOY_KINDS
from dnnlib.cli import Group, InputError, echo, option_group, overwrite_option
from dnnlib.outputs import Outputs
from training.data.archive import Archive, DataError

if TYPE_CHECKING:  # these import PyTorch, which takes seconds: commands import them after their options are parsed
    from training.data.checks import Report

INPUT_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OUTPUT_FILE = click.Path(path_type=Path, dir_okay=False)

# Blur of the Canny detector in pixels.
DEFAULT_SIGMA = 2.0


class DataGroup(Group):
    """Group of commands that also prints invalid data and file errors as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        # Both name their file; other exceptions are bugs and keep their traceback.
        try:
            return super().invoke(ctx)
        except DataError as error:
            raise InputError(str(error)) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise InputError(f"{where}{error.strerror or error}") from error


@click.group(cls=DataGroup)
def main() -> None:
    """Make, convert, check and show data sets for training."""


def option(name: str, kind: Any, default: Any, text: str, **extra: Any) -> Callable:
    """Declare an option; a default other than None is shown in --help."""
    # click takes an explicit None for a value, also of a required option.
    if default is not None:
        extra.update(default=default, show_default=True)
    return click.option(name, type=kind, help=text, **extra)


def progress_bar(label: str, total: int | None) -> Callable[[Iterable], Iterable]:
    """Return a function that shows a progress bar around a loop, if the output is a terminal."""
    # disable=None: not in log files.
    return partial(tqdm, desc=label, total=total, disable=None)


def not_nan(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Reject NaN, which passes click's range check (a callback of click)."""
    # Every comparison with NaN is false, so it is neither too small nor too large.
    if value is not None and math.isnan(value):
        raise click.BadParameter("got nan, expected a number")
    return value


def power_of_two(_ctx: click.Context, _param: click.Parameter, value: int) -> int:
    """Reject numbers that are not a power of two (a callback of click)."""
    # A power of two has one bit set, which value - 1 clears.
    if value & (value - 1):
        raise click.BadParameter(f"got {value}, expected a power of two")
    return value


def resolution_option(default: int) -> Callable:
    """Declare the option of the images' resolution."""
    text = "Width and height of the images in pixels, a power of two."
    return option("--resolution", click.IntRange(16, 1024), default, text, callback=power_of_two)


# Options of several commands.
data_type_option = option("--data_type", click.Choice(DATA_TYPES), "seg",
                          "Content of label maps: class ids (seg) or drawings (edge).")  # fmt: skip
data_options = option_group(
    "Input",
    option("--data", click.Path(), None, "Zip or directory of images with dataset.json.", required=True),
    option("--mask_data", click.Path(), None, "Zip or directory of label maps."),
    data_type_option,
)

# --------------------------------------------------------------------------- toy


@main.command()
@option_group(
    "Data",
    option("--kind", click.Choice(TOY_KINDS), None, "Kind of objects.", required=True),
    resolution_option(128),
    option("--number", click.IntRange(1), 2000, "Number of training images, a multiple of --views."),
    option("--views", click.IntRange(1), 1, "Number of images of each training object."),
    option("--wide-views", click.IntRange(0), 0, "How many of these images have a yaw uniform in +-43 degrees; "
           "the others are mostly frontal. Cats only."),
    click.option("--depth", is_flag=True, help="Write the depth of the training images too."),
    option("--held-out", click.IntRange(0), 50, "Number of objects kept for evaluation."),
    option("--held-out-views", click.IntRange(1), 8, "Number of images of each object kept for evaluation."),
    option("--seed", click.IntRange(0), 0, "Random seed of objects and poses."),
)  # fmt: skip
@option_group(
    "Output",
    option("--outdir", click.Path(path_type=Path, file_okay=False), None, "Directory to write to.", required=True),
    option("--workers", click.IntRange(0), min(os.cpu_count() or 1, 8), "Processes that render; 0 uses this one."),
)
@overwrite_option
def toy(
    kind: str,
    outdir: Path,
    resolution: int,
    number: int,
    views: int,
    wide_views: int,
    depth: bool,
    held_out: int,
    held_out_views: int,
    seed: int,
    workers: int,
    outputs: Outputs,
) -> None:
    """Render procedural cats (6 classes) or cars (edge drawings) with known 3D.

    Writes KIND_RESOLUTION.zip (images) and KIND_RESOLUTION_label.zip (label maps) for training, with --depth also
    KIND_RESOLUTION_depth.zip. The held-out objects go to the same names with _test, always with their depth.

    Example: python dataset_tool.py toy --kind cats --outdir data/toy --number 2000
    """
    # Objects are rendered whole.
    if number % views:
        raise click.UsageError(f"--number {number}: expected a multiple of --views {views}")

    from dataset_preprocessing.toy.write import HELD_OUT, RenderJob, archive_paths, write_toy

    # Archives for training; held-out objects with depth, for evaluation of their 3D.
    training = RenderJob(kind, resolution, views, seed, depth=depth, wide_views=wide_views)
    splits = [("", training, number // views)]
    if held_out:
        splits.append(("_test", RenderJob(kind, resolution, held_out_views, seed, HELD_OUT, depth=True), held_out))

    # Render one after the other; the progress bar counts objects.
    stems = [outdir / f"{kind}_{resolution}{suffix}" for suffix, _, _ in splits]
    outputs.claim(*(path for stem, (_, job, _) in zip(stems, splits, strict=True) for path in archive_paths(job, stem)))
    for stem, (suffix, job, objects) in zip(stems, splits, strict=True):
        echo(f"Rendering {objects * job.views} images of {objects} {kind} ...", err=True)
        write_toy(job, objects, stem, workers, progress_bar(f"{kind}{suffix}", objects))
        echo(f"{stem}*.zip: {objects * job.views} images")


# --------------------------------------------------------------------------- pack, edges


@main.command("pack")
@option_group(
    "Input",
    option("--images", click.Path(), None, "Zip or directory of images of any size.", required=True),
    option("--label-maps", click.Path(), None, "Zip or directory of label maps with the same names as the images."),
    data_type_option,
    option("--classes", INPUT_FILE, None, 'JSON file that maps class ids or colors to new ids, for instance {"0": 0, '
           '"17": 1, "#ff0000": 2}.'),
    option("--ignore", click.IntRange(0, 255), None, "Class id of pixels without a class, which become background, 0; "
           "often 255."),
    click.option("--objects", metavar="folders|FILE", help="Images of the same object: those in the same folder, or "
                 'those listed together in a JSON file, for instance [["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]].'),
)  # fmt: skip
@option_group(
    "Cameras",
    option("--cameras", INPUT_FILE, None, "dataset.json (EG3D) or transforms.json (NeRF, COLMAP, Blender)."),
    click.option("--front", is_flag=True, help="Without --cameras: give every image the front pose."),
    option("--cfg", click.Choice(CAMERA_NAMES), "seg2cat", "Preset of the cameras: distance and target."),
    option("--up", click.Choice(["z", "y"]), "z", "Axis that points up in transforms.json."),
    click.option("--keep-world", is_flag=True, help="Do not move and scale the cameras to those of --cfg."),
    click.option("--skip-missing", is_flag=True, help="Leave out images that have no camera in --cameras."),
)
@option_group(
    "Output",
    option("--output", OUTPUT_FILE, None, "Zip of images to write.", required=True),
    option("--label-output", OUTPUT_FILE, None, "Zip of label maps to write, with --label-maps."),
    resolution_option(512),
)
@overwrite_option
def pack_command(
    images: str,
    label_maps: str | None,
    output: Path,
    label_output: Path | None,
    resolution: int,
    data_type: str,
    cameras: Path | None,
    front: bool,
    cfg: str,
    up: str,
    keep_world: bool,
    skip_missing: bool,
    classes: Path | None,
    ignore: int | None,
    objects: str | None,
    outputs: Outputs,
) -> None:
    """Pack your own images, label maps and cameras into the zips of a data set.

    The center square of each image is resized; class ids are never blended.

    Example: python dataset_tool.py pack --images photos --label-maps labels --front --output a.zip --label-output b.zip
    """
    # Options that contradict each other or have no effect.
    if front == (cameras is not None):
        raise click.UsageError("expected either --cameras FILE or --front")
    if (label_maps is None) != (label_output is None):
        raise click.UsageError("expected both --label-maps and --label-output, or neither")
    if label_output and output.resolve() == label_output.resolve():
        raise click.UsageError(f"--output and --label-output are both {output}; use two names")
    if (classes or ignore is not None) and (data_type != "seg" or not label_maps):
        name = "classes" if classes else "ignore"
        raise click.UsageError(f"--{name} maps class ids: it needs --label-maps and --data_type seg")
    if skip_missing and not cameras:
        raise click.UsageError("--skip-missing leaves out images without a camera: it needs --cameras")

    from camera_utils import CAMERAS
    from dataset_preprocessing.pack import PackOptions, pack
    from training.data.class_tables import read_class_table

    # Open the inputs before anything is written.
    outputs.claim(*filter(None, (output, label_output)))
    image_archive = Archive(images)
    label_archive = Archive(label_maps) if label_maps else None
    class_table = read_class_table(classes) if classes else None

    # Convert.
    options = PackOptions(
        resolution, CAMERAS[cfg], data_type, cameras, up == "z", keep_world, class_table, objects, skip_missing, ignore
    )
    count, left_out = pack(image_archive, label_archive, output, label_output, options, progress_bar("pack", None))
    for name in left_out:
        echo(f"left out: {name}: no camera", err=True)
    _print_unread(image_archive, label_archive)
    echo(f"{count} images")


@main.command()
@option_group(
    "Input and output",
    option("--data", click.Path(), None, "Zip or directory of images.", required=True),
    option("--output", OUTPUT_FILE, None, "Zip of edge drawings to write.", required=True),
)
@option_group(
    "Detector",
    option("--weights", INPUT_FILE, None, "Weights of the HED network, a Keras .h5 file."),
    option("--device", str, "cpu", "Device of the HED network."),
    option("--sigma", click.FloatRange(0, 100, min_open=True), None, "Blur of the Canny detector in pixels.  "
           f"[default: {DEFAULT_SIGMA:g}]", callback=not_nan),
)  # fmt: skip
@overwrite_option
def edges(data: str, output: Path, weights: Path | None, sigma: float | None, device: str, outputs: Outputs) -> None:
    """Make edge drawings from images: by the HED network if --weights is given, else by the Canny detector.

    Example: python dataset_tool.py edges --data photos.zip --output photos_edges.zip
    """
    # --sigma is None unless given; its default is applied below.
    if weights and sigma:
        raise click.UsageError("--sigma is for the Canny detector, --weights for the HED network; give one of them")

    outputs.claim(output)

    from dataset_preprocessing.edges import classical_detector, draw_edges, learned_detector

    # Errors are a missing package, invalid weights and an invalid device.
    try:
        detect = learned_detector(weights, device) if weights else classical_detector(sigma or DEFAULT_SIGMA)
    except (ImportError, ValueError, RuntimeError) as error:
        raise click.UsageError(str(error)) from error

    # Draw.
    images = Archive(data)
    count = draw_edges(images, output, detect, progress_bar("edges", None))
    _print_unread(images)
    echo(f"{count} drawings")


def _print_unread(*archives: Archive | None) -> None:
    from training.data.index import describe_unread

    # To the standard error stream, like problems.
    for archive in archives:
        unread = describe_unread(archive) if archive else ""
        if unread:
            echo(f"{archive.path}: {unread}", err=True)


# --------------------------------------------------------------------------- check, show


@main.command()
@data_options
@option_group(
    "Check",
    option("--semantic_channels", click.IntRange(1, 256), None, "Number of classes; class ids must be below it."),
    option("--coverage", OUTPUT_FILE, None, "PNG to write with the distribution of yaw and pitch."),
)
@overwrite_option
def check(
    data: str,
    mask_data: str | None,
    data_type: str,
    semantic_channels: int | None,
    coverage: Path | None,
    outputs: Outputs,
) -> None:
    """Decode every file of a data set; print counts and all problems.

    The exit code is 0 without problems, 1 with problems, and 2 if the data set cannot be read at all.

    Example: python dataset_tool.py check --data cats.zip --mask_data cats_label.zip --semantic_channels 6
    """
    if coverage:
        outputs.claim(coverage)

    from training.data.checks import check_dataset
    from training.data.index import build_index

    # Decode all files, one step of the progress bar each.
    images = Archive(data)
    label_maps = Archive(mask_data) if mask_data else None
    index = build_index(images, label_maps, use_labels=True)
    bar = progress_bar("check", len(index.images) + len(index.label_maps or []))
    report = check_dataset(images, label_maps, index, data_type, semantic_channels, bar)
    _print_report(report, index.objects)
    _print_unread(images, label_maps)

    if coverage:
        _plot_coverage(index.poses, coverage)

    # Not 2, which means that the check itself failed.
    if report.problems:
        raise SystemExit(1)


def _plot_coverage(poses: np.ndarray | None, path: Path) -> None:
    """Plot the cameras (N,25) that are finite; the others are reported as problems."""
    from dataset_preprocessing.contact_sheet import pose_coverage
    from training.data.image_io import write_png

    finite = np.zeros((0, 25), np.float32) if poses is None else poses[np.isfinite(poses).all(1)]
    write_png(path, np.asarray(pose_coverage(finite)))


def _print_report(report: Report, objects: np.ndarray) -> None:
    # Counts, and the share of each class in all pixels.
    echo(f"{report.images} images of {report.resolution} pixels, {report.label_maps} label maps")
    _print_objects(objects)
    for class_id in np.flatnonzero(report.histogram):
        echo(f"  class {class_id}: {report.histogram[class_id] / report.histogram.sum():8.3%}")

    # Problems go to the standard error stream, one a line.
    for problem in report.problems:
        echo(f"problem: {problem}", err=True)
    echo(f"{len(report.problems)} problems" if report.problems else "no problems")


def _print_objects(objects: np.ndarray) -> None:
    # Only if some images show the same object.
    views = np.bincount(objects, minlength=1)
    if views.max() > 1:
        numbers = f"{views.max()}" if views.min() == views.max() else f"{views.min()} to {views.max()}"
        echo(f"{len(views)} objects, {numbers} images of each")


@main.command()
@data_options
@option_group(
    "Output",
    option("--output", OUTPUT_FILE, None, "PNG to write.", required=True),
    option("--count", click.IntRange(1, 400), 16, "Number of samples."),
    option("--seed", click.IntRange(0), None, "Random seed to choose samples; without it the first ones are shown."),
    click.option("--xflip", is_flag=True, help="Show mirrored copies too, with their mirrored poses."),
    option("--mirror_classes", str, "none", "With --xflip: left and right classes, swapped in mirrored label maps: "
           "pairs like 4-5,6-7; celebamask; or none.", metavar="PAIRS"),
)  # fmt: skip
@overwrite_option
def show(
    data: str,
    mask_data: str | None,
    data_type: str,
    output: Path,
    count: int,
    seed: int | None,
    xflip: bool,
    mirror_classes: str,
    outputs: Outputs,
) -> None:
    """Write a contact sheet of images, label maps over the images, and poses.

    Example: python dataset_tool.py show --data cats.zip --mask_data cats_label.zip --output cats.png
    """
    if mirror_classes != "none" and not (xflip and mask_data and data_type == "seg"):
        raise click.UsageError("--mirror_classes swaps classes: it needs --xflip, --mask_data and --data_type seg")

    outputs.claim(output)

    from dataset_preprocessing.contact_sheet import contact_sheet
    from training.data.dataset import PosedImageDataset
    from training.data.image_io import write_png
    from training.data.mirror import describe_pairs, parse_pairs

    # Sampled without replacement, or the first ones.
    swaps = parse_pairs(mirror_classes)
    dataset = PosedImageDataset(data, mask_data, data_type, xflip=xflip, mirror_swaps=swaps)
    order = np.arange(len(dataset)) if seed is None else np.random.default_rng(seed).permutation(len(dataset))

    # Mirrored copies follow after all samples; show each sample beside its copy.
    if xflip and seed is None:
        order = order.reshape(2, -1).T.ravel()
    write_png(output, np.asarray(contact_sheet(dataset, order[:count].tolist())))
    echo(f"{min(count, len(dataset))} of {len(dataset)} samples")
    if xflip and mask_data and data_type == "seg":
        echo(describe_pairs(swaps))
    _print_objects(dataset.index.objects)


if __name__ == "__main__":
    main()
