"""Make, convert, check and show data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from camera_utils import CAMERAS
from dataset_preprocessing.contact_sheet import contact_sheet, pose_coverage
from dataset_preprocessing.edges import classical_detector, draw_edges, learned_detector
from dataset_preprocessing.pack import PackOptions, pack, read_class_table
from dataset_preprocessing.toy.write import HELD_OUT, KINDS, RenderJob, write_toy
from dnnlib.cli import Group, user_errors
from training.data.archive import Archive, DataError
from training.data.checks import Report, check_dataset
from training.data.dataset import DATA_TYPES, PosedImageDataset
from training.data.image_io import write_png
from training.data.index import build_index

RESOLUTIONS = click.IntRange(16, 1024)
WORKERS = min(os.cpu_count() or 1, 8)
DATA = click.option("--data", type=click.Path(), required=True, help="zip or folder of images and dataset.json")
MASK_DATA = click.option("--mask_data", type=click.Path(), help="zip or folder of label maps")
DATA_TYPE = click.option("--data_type", type=click.Choice(DATA_TYPES), default="seg", show_default=True)


class DataGroup(Group):
    """Complaints about data are one line too."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (DataError, OSError) as error:
            with user_errors(""):  # worded as for a single option
                raise error


@click.group(cls=DataGroup)
def main() -> None:
    """Make, convert, check and show data sets for training."""


def progress_bar(label: str, total: int | None) -> Callable[[Iterable], Iterable]:
    """A bar around a loop; silent where there is no terminal."""
    return partial(tqdm, desc=label, total=total, disable=None)


def not_nan(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("got nan, expected a number")
    return value


def power_of_two(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if value & (value - 1):
        raise click.BadParameter(f"got {value}, expected a power of two")
    return value


# --------------------------------------------------------------------------- toy


@main.command()
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="what to render")
@click.option("--outdir", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--resolution", type=RESOLUTIONS, callback=power_of_two, default=128, show_default=True)
@click.option("--number", type=click.IntRange(1), default=2000, show_default=True, help="pictures to train on")
@click.option("--views", type=click.IntRange(1), default=1, show_default=True, help="poses of each training object")
@click.option("--held-out", type=click.IntRange(0), default=50, show_default=True, help="objects kept for judging")
@click.option("--held-out-views", type=click.IntRange(1), default=8, show_default=True, help="poses of each of them")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=WORKERS, show_default=True, help="processes")
def toy(
    kind: str,
    outdir: Path,
    resolution: int,
    number: int,
    views: int,
    held_out: int,
    held_out_views: int,
    seed: int,
    workers: int,
) -> None:
    """Render procedural cats (6 classes) or cars (edge drawings) whose 3D is known.

    Writes KIND_RES.zip and KIND_RES_label.zip, and the same with _test for objects that are not in them, with depth.

    Example: python dataset_tool.py toy --kind cats --outdir data/toy --number 2000
    """
    if number % views:
        raise click.UsageError(f"--number {number}: expected a multiple of --views {views}")
    splits = [("", RenderJob(kind, resolution, views, seed), number // views)]
    if held_out:
        splits.append(("_test", RenderJob(kind, resolution, held_out_views, seed, HELD_OUT, depth=True), held_out))
    for ending, job, objects in splits:
        bar = progress_bar(f"{kind}{ending}", objects)
        paths = write_toy(job, objects, outdir / f"{kind}_{resolution}{ending}", workers, bar)
        click.echo(f"{objects * job.views} pictures: " + " ".join(map(str, paths)))


# --------------------------------------------------------------------------- pack, edges


@main.command("pack")
@click.option("--images", type=click.Path(), required=True, help="folder or zip of pictures, any size")
@click.option("--label-maps", type=click.Path(), help="folder or zip of label maps or drawings with the same names")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="zip to write")
@click.option("--label-output", type=click.Path(path_type=Path, dir_okay=False), help="zip of label maps to write")
@click.option("--resolution", type=RESOLUTIONS, callback=power_of_two, default=512, show_default=True)
@DATA_TYPE
@click.option("--cameras", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="see below")
@click.option("--front", is_flag=True, help="no cameras: all pictures are taken from the front")
@click.option("--cfg", type=click.Choice(list(CAMERAS)), default="seg2cat", show_default=True, help="camera set-up")
@click.option("--up", type=click.Choice(["z", "y"]), default="z", show_default=True, help="up in transforms.json")
@click.option("--keep-world", is_flag=True, help="do not move and scale the cameras to the set-up of --cfg")
@click.option("--classes", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="see below")
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
    classes: Path | None,
) -> None:
    """Own pictures to the zip form: the middle square, resized; label maps without blending.

    --cameras takes a dataset.json (EG3D) or a transforms.json (NeRF, COLMAP, Blender). --classes is a JSON object from
    old class id or color to new id, for instance {"0": 0, "17": 1, "#ff0000": 2}.

    Example: python dataset_tool.py pack --images photos --label-maps labels --front --output a.zip --label-output b.zip
    """
    if front == (cameras is not None):
        raise click.UsageError("give either --cameras FILE or --front")
    if (label_maps is None) != (label_output is None):
        raise click.UsageError("--label-maps and --label-output belong together")
    if label_output and output.resolve() == label_output.resolve():
        raise click.UsageError(f"--output and --label-output are both {output}; give two names")
    if classes and (data_type != "seg" or not label_maps):
        raise click.UsageError("--classes maps class ids: it needs --label-maps and --data_type seg")
    source, labels = Archive(images), Archive(label_maps) if label_maps else None
    table = read_class_table(classes) if classes else None
    options = PackOptions(resolution, CAMERAS[cfg], data_type, cameras, up == "z", keep_world, table)
    count = pack(source, labels, output, label_output, options, progress_bar("pack", None))
    click.echo(f"{count} pictures: {output}" + (f" {label_output}" if label_output else ""))


@main.command()
@click.option("--data", type=click.Path(), required=True, help="zip or folder of pictures")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="zip to write")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), help=".h5 of an edge network")
@click.option(
    "--sigma", type=click.FloatRange(0, 100, min_open=True), callback=not_nan, help="blur in pixels [default: 2]"
)
@click.option("--device", default="cpu", show_default=True, help="where the network runs")
def edges(data: str, output: Path, weights: Path | None, sigma: float | None, device: str) -> None:
    """Edge drawings of photos: by a network (HED) whose --weights you name, else by the Canny detector.

    Example: python dataset_tool.py edges --data photos.zip --output photos_edges.zip
    """
    if weights and sigma:
        raise click.UsageError("--sigma belongs to the classical detector, --weights to the network; give one")
    try:
        detect = learned_detector(weights, device) if weights else classical_detector(sigma or 2.0)
    except (ImportError, ValueError, RuntimeError) as error:  # no such extra, no such weights, no such device
        raise click.UsageError(str(error)) from error
    count = draw_edges(Archive(data), output, detect, progress_bar("edges", None))
    click.echo(f"{count} drawings: {output}")


# --------------------------------------------------------------------------- check, show


@main.command()
@DATA
@MASK_DATA
@DATA_TYPE
@click.option("--semantic_channels", type=click.IntRange(1, 256), help="number of classes")
@click.option("--coverage", type=click.Path(path_type=Path, dir_okay=False), help="PNG of where the cameras stand")
def check(
    data: str, mask_data: str | None, data_type: str, semantic_channels: int | None, coverage: Path | None
) -> None:
    """Open every file of a data set; list counts and all problems. Exit code 0: none, 1: some, 2: not readable at all.

    Example: python dataset_tool.py check --data cats.zip --mask_data cats_label.zip --semantic_channels 6
    """
    images, label_maps = Archive(data), Archive(mask_data) if mask_data else None
    index = build_index(images, label_maps, use_labels=True)
    bar = progress_bar("check", len(index.images) + len(index.label_maps or []))
    report = check_dataset(images, label_maps, index, data_type, semantic_channels, bar)
    _print_report(report, data_type if mask_data else None)
    if coverage:
        poses = np.zeros((0, 25), np.float32) if index.poses is None else index.poses
        picture = pose_coverage(poses[np.isfinite(poses).all(1)])
        write_png(coverage, np.asarray(picture))
        click.echo(f"cameras: {coverage}")
    if report.problems:
        raise SystemExit(1)


def _print_report(report: Report, data_type: str | None) -> None:
    click.echo(f"{report.images} images of {report.resolution} pixels, {report.label_maps} label maps")
    if data_type == "seg" and (total := report.histogram.sum()):
        for class_id in np.flatnonzero(report.histogram):
            click.echo(f"  class {class_id}: {report.histogram[class_id] / total:8.3%}")
    for problem in report.problems:
        click.echo(f"problem: {problem}", err=True)
    click.echo(f"{len(report.problems)} problems" if report.problems else "no problems")


@main.command()
@DATA
@MASK_DATA
@DATA_TYPE
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG to write")
@click.option("--count", type=click.IntRange(1, 400), default=16, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="show a random choice instead of the first ones")
@click.option("--xflip", is_flag=True, help="show mirrored copies, with their mirrored poses")
def show(
    data: str, mask_data: str | None, data_type: str, output: Path, count: int, seed: int | None, xflip: bool
) -> None:
    """Contact sheet: images, label maps over them, poses.

    Example: python dataset_tool.py show --data cats.zip --mask_data cats_label.zip --output cats.png
    """
    dataset = PosedImageDataset(data, mask_data, data_type, xflip=xflip)
    order = np.arange(len(dataset)) if seed is None else np.random.default_rng(seed).permutation(len(dataset))
    if xflip and seed is None:
        order = order.reshape(2, -1).T.ravel()  # each sample beside its mirrored copy
    write_png(output, np.asarray(contact_sheet(dataset, order[:count].tolist())))
    click.echo(f"{min(count, len(dataset))} of {len(dataset)} samples: {output}")


if __name__ == "__main__":
    main()
