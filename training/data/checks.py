"""Check a data set by decoding every file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from training.data.archive import Archive, DataError, Problem
from training.data.image_io import decode_image, decode_rgb, to_stored_edges
from training.data.index import Index
from training.data.label_maps import check_drawing, decode_class_ids


@dataclass
class Report:
    """Result of `check_dataset`.

    Attributes:
        images, label_maps: number of files in the index.
        resolution: side of the first image in pixels, 0 without images.
        histogram: int64 256, pixels of each class id over all label maps (data type "seg").
        problems: problems of the index, followed by those found while decoding.
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
    """Decode all files of an index and collect problems instead of raising them.

    Args:
        images: archive of the images.
        label_maps: archive of the label maps, None without label maps.
        index: result of `build_index` on both archives.
        data_type: "seg" or "edge".
        semantic_channels: number of classes; class ids must be below it. None accepts all ids.
        progress: wraps the loop over files, for a progress bar.
    """
    label_map_names = index.label_maps or []
    report = Report(len(index.images), len(label_map_names), problems=list(index.problems))
    check_label_map = partial(_check_label_map, report, data_type, semantic_channels)

    # Images first: the resolution of the first one is what label maps are compared with.
    files = [(images, name, partial(_check_image, report)) for name in index.images]
    files += [(label_maps, name, check_label_map) for name in label_map_names]

    # An image and its label map may have the same name, so that of the archive is added.
    for archive, name, check in progress(files):
        try:
            archive.decode(name, check)
        except DataError as error:
            reason = error.problems[0].reason
            report.problems.append(Problem(f"{archive.path.name}/{name}", reason))
    return report


def _check_image(report: Report, content: bytes) -> None:
    # Set by the first image that can be decoded.
    image = decode_image(content)
    report.resolution = report.resolution or image.shape[2]
    check_image_size(image, report.resolution)


def _check_label_map(report: Report, data_type: str, semantic_channels: int | None, content: bytes) -> None:
    # Without a readable image, there is no size to compare with; the problems of the images are listed already.
    if not report.resolution:
        return

    # Drawings are converted as for training, which finds those that are not square.
    if data_type == "edge":
        drawing = decode_rgb(content)
        to_stored_edges(drawing, report.resolution)
        check_drawing(drawing)
        return

    # Count before checking, so that the histogram shows invalid ids too.
    ids = decode_class_ids(content)
    counts = np.bincount(ids.ravel(), minlength=256)
    report.histogram += counts
    check_class_ids_size(ids, report.resolution)

    check_class_range(ids, semantic_channels)


def check_image_size(image: np.ndarray, resolution: int | None) -> None:
    """Raise ValueError unless an image 3,H,W is square, a power of two, and `resolution` (None: any) pixels wide."""
    _, height, width = image.shape

    # The networks halve or double the resolution from layer to layer, starting at 4 pixels.
    if width != height or width & (width - 1):
        raise ValueError(f"{width}x{height} pixels, images must be square and a power of two (dataset_tool.py pack)")
    if resolution not in (None, width):
        raise ValueError(f"{width}x{height} pixels, expected {resolution}x{resolution}")


def check_class_range(ids: np.ndarray, classes: int | None) -> None:
    """Raise ValueError unless class ids, of any shape, are below the number of classes (None: any)."""
    # In the networks, an id that is too large is a traceback, on a GPU an assertion; neither names a file.
    if classes is not None and ids.max() >= classes:
        raise ValueError(f"got class {ids.max()}, expected 0 to {classes - 1}")


def check_class_ids_size(ids: np.ndarray, resolution: int) -> None:
    """Raise ValueError unless class ids H,W have the size R,R of the image."""
    height, width = ids.shape
    if (height, width) != (resolution, resolution):
        raise ValueError(f"{width}x{height} pixels, its image has {resolution}")
