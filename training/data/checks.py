"""Every file of a data set opened once: counts, class histogram, poses, and all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from training.data.archive import Archive, DataError, Problem
from training.data.image_io import decode_class_ids, decode_edges, decode_image
from training.data.index import Index
from training.data.label_maps import DARKEST_PAPER


@dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        images, label_maps: number of files that are in use.
        resolution: size of the first image, 0 if there is none.
        histogram: int64 256, pixels of each class id (seg) over all label maps.
        problems: with the file's name each, those of the index first.
    """

    images: int
    label_maps: int
    resolution: int = 0
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    problems: list[Problem] = field(default_factory=list)


def check_dataset(
    images: Archive,
    label_maps: Archive | None,
    index: Index,
    data_type: str,
    semantic_channels: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Report:
    """Decode all files of an index.

    Args:
        semantic_channels: number of classes that class ids must stay below; None counts them only.
        progress: wraps the loop over files, for a progress bar.
    """
    report = Report(len(index.images), len(index.label_maps or []), problems=list(index.problems))
    label_names = index.label_maps or []
    for number, name in enumerate(progress([*index.images, *label_names])):
        is_image = number < len(index.images)
        archive = images if is_image else label_maps
        try:
            content = archive.read(name)
            if is_image:
                _examine_image(report, content)
            elif data_type == "seg":
                _examine_class_ids(report, content, semantic_channels)
            else:
                _examine_drawing(decode_edges(content, report.resolution))
        except DataError as error:
            report.problems += error.problems
        except ValueError as error:
            report.problems.append(Problem(f"{archive.path.name}/{name}", str(error)))
    return report


def _examine_image(report: Report, content: bytes) -> None:
    height, width = decode_image(content).shape[1:]
    if not report.resolution:
        report.resolution = width
    if width != height or width & (width - 1):
        raise ValueError(f"{width}x{height} pixels, images must be square and a power of two (dataset_tool.py pack)")
    if width != report.resolution:
        raise ValueError(f"{width}x{height} pixels, the first image has {report.resolution}")


def _examine_drawing(stored: np.ndarray) -> None:
    if (paper := 255 - np.median(stored)) < DARKEST_PAPER:
        what = f"half of its pixels are darker than {paper:.0f} of 255; expected dark lines on white"
        raise ValueError(f"{what}, not class ids (--data_type=seg), a photo or white lines on black")


def _examine_class_ids(report: Report, content: bytes, semantic_channels: int | None) -> None:
    ids = decode_class_ids(content)
    counts = np.bincount(ids.ravel(), minlength=256)
    report.histogram += counts
    if ids.shape != (report.resolution, report.resolution):
        raise ValueError(f"{ids.shape[1]}x{ids.shape[0]} pixels, its image has {report.resolution}")
    if semantic_channels is not None and counts[semantic_channels:].any():
        highest = int(ids.max())
        raise ValueError(f"class {highest} found, {semantic_channels} classes are 0 to {semantic_channels - 1}")
