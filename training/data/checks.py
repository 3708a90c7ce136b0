"""Check a data set by decoding every file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from training.data.archive import Archive, DataError, Problem
from training.data.image_io import decode_class_ids, decode_edges, decode_image
from training.data.index import Index
from training.data.label_maps import MIN_PAPER_GRAY


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
    files = [(images, name) for name in index.images] + [(label_maps, name) for name in label_map_names]
    for archive, name in progress(files):
        try:
            content = archive.read(name)
            if archive is images:
                _check_image(report, content)
            elif data_type == "seg":
                _check_class_ids(report, content, semantic_channels)
            else:
                _check_edges(decode_edges(content, report.resolution))
        except DataError as error:
            report.problems += error.problems
        except ValueError as error:
            report.problems.append(Problem(f"{archive.path.name}/{name}", str(error)))
    return report


def _check_image(report: Report, content: bytes) -> None:
    height, width = decode_image(content).shape[1:]
    if not report.resolution:
        report.resolution = width
    if width != height or width & (width - 1):
        raise ValueError(f"{width}x{height} pixels, images must be square and a power of two (dataset_tool.py pack)")
    if width != report.resolution:
        raise ValueError(f"{width}x{height} pixels, the first image has {report.resolution}")


def _check_class_ids(report: Report, content: bytes, semantic_channels: int | None) -> None:
    ids = decode_class_ids(content)
    counts = np.bincount(ids.ravel(), minlength=256)
    report.histogram += counts
    if ids.shape != (report.resolution, report.resolution):
        raise ValueError(f"{ids.shape[1]}x{ids.shape[0]} pixels, its image has {report.resolution}")
    if semantic_channels is not None and counts[semantic_channels:].any():
        raise ValueError(f"got class {ids.max()}, expected 0 to {semantic_channels - 1}")


def _check_edges(stored: np.ndarray) -> None:
    """Reject edge maps (stored form, see `decode_edges`) that were not dark lines on white."""
    gray = 255 - np.median(stored)
    if gray < MIN_PAPER_GRAY:
        raise ValueError(
            f"half of its pixels are darker than {gray:.0f} of 255; expected dark lines on white, "
            "not class ids (data type seg), a photo or white lines on black"
        )
