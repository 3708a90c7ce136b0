"""Data sets of posed images with label maps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from camera_utils import mirror_pose
from dnnlib.choices import DATA_TYPES
from training.data.archive import Archive, DataError
from training.data.checks import check_class_ids_size, check_class_range, check_dataset, check_image_size
from training.data.image_io import decode_edges, decode_image
from training.data.index import build_index
from training.data.label_maps import decode_class_ids
from training.data.mirror import swap_table


@dataclass(frozen=True)
class Details:
    """Origin of a sample: number of its image in the archive, whether it is mirrored, and the image's name."""

    raw_idx: int
    xflip: bool
    name: str


class PosedImageDataset(torch.utils.data.Dataset):
    """Images, label maps and poses in EG3D's format: each archive a zip or a directory, matched by file name.

    A sample is a dict:
        image: uint8 3,R,R.
        mask: uint8 1,R,R, class ids or edge map in stored form (0 background, 255 line); absent without `mask_path`.
        pose: float32 25 (cam2world, intrinsics); no numbers without `use_labels`.
        idx: index of the sample.
    Samples are sorted by the path of their image; with `xflip`, the mirrored copies follow after all others.
    Attribute `objects` is the number of the object of each sample, from 0; mirrored copies show other objects.

    Args:
        path: archive of images and dataset.json.
        mask_path: archive of label maps.
        data_type: "seg" (class ids) or "edge" (drawings with dark lines on white).
        resolution: required size of the images; None accepts any.
        use_labels: read the poses, and which images show the same object.
        max_size: use a random subset of this many images.
        xflip: add a mirrored copy of every sample.
        mirror_pose: mirror the poses of mirrored copies too; the published training does not (False).
        mirror_swaps: pairs of class ids that change places in mirrored copies, such as those of left and right eye.
        random_seed: selects the subset.
        classes: number of classes; reading a label map with other ids raises DataError. None accepts all ids.
        semantic_channels: number of classes; if given, every file is decoded once and checked, class ids included.
    Raises:
        DataError: any problem that would otherwise show up later, with the name of the file.
        ValueError: another data type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mask_path: str | os.PathLike[str] | None = None,
        data_type: str = "seg",
        *,
        resolution: int | None = None,
        use_labels: bool = True,
        max_size: int | None = None,
        xflip: bool = False,
        mirror_pose: bool = True,
        mirror_swaps: Iterable[Sequence[int]] = (),
        random_seed: int = 0,
        classes: int | None = None,
        semantic_channels: int | None = None,
    ):
        if data_type not in DATA_TYPES:
            raise ValueError(f"data_type: got {data_type!r}, allowed are {', '.join(DATA_TYPES)}")

        # Settings that samples depend on.
        self.data_type = data_type
        self.classes = classes
        self.mirror_pose = mirror_pose
        self._mirrored_ids = swap_table(mirror_swaps)

        # Open the archives and match their files.
        self.images = Archive(path)
        self.label_maps = None if mask_path is None else Archive(mask_path)
        self.index = build_index(self.images, self.label_maps, use_labels)

        # Decoding all files takes minutes for a large data set; it finds in advance what would stop a training run.
        problems = self.index.problems
        if not problems and semantic_channels is not None:
            problems = check_dataset(self.images, self.label_maps, self.index, data_type, semantic_channels).problems
        if problems:
            raise DataError(path, problems)

        # The first image determines the resolution, unless it is given.
        self.resolution = resolution
        self.resolution = self._read_image(0).shape[1]

        # Number of the image in the archive for each sample: the subset, followed by the mirrored copies.
        self._raw_idx = _subset(len(self.index.images), max_size, random_seed)
        self._xflip = np.zeros(len(self._raw_idx), bool)
        if xflip:
            self._xflip = np.repeat([False, True], len(self._raw_idx))
            self._raw_idx = np.tile(self._raw_idx, 2)

        # Samples sorted by object, and where the samples of each object begin. Mirrored copies show mirrored objects.
        keys = 2 * self.index.objects[self._raw_idx] + self._xflip
        self.objects = np.unique(keys, return_inverse=True)[1]
        self._by_object = np.argsort(self.objects, kind="stable")
        self._starts = np.append(0, np.cumsum(np.bincount(self.objects)))

    @property
    def name(self) -> str:
        """File name of the image archive without extension."""
        return self.images.stem

    @property
    def has_labels(self) -> bool:
        """Whether samples have poses."""
        return self.index.poses is not None

    def __len__(self) -> int:
        return len(self._raw_idx)

    def __getitem__(self, idx: int) -> dict[str, np.ndarray | int]:
        image = self._read_image(self._raw_idx[idx])
        return {"image": self._mirror_if_xflip(image, idx), **self.get_conditions(idx)}

    def get_conditions(self, idx: int) -> dict[str, np.ndarray | int]:
        """Return a sample without its image, which is not decoded."""
        # Each sample is decoded when it is read: a data set need not fit in memory.
        sample = {}
        if self.label_maps is not None:
            mask = self.label_maps.decode(self.index.label_maps[self._raw_idx[idx]], self._decode_label_map)  # R,R
            sample["mask"] = self._mirror_if_xflip(mask[None], idx)

            # A left eye becomes a right eye. Edges have no classes.
            if self._xflip[idx] and self.data_type == "seg":
                sample["mask"] = self._mirrored_ids[sample["mask"]]
        return {**sample, "pose": self.get_label(idx), "idx": int(idx)}

    def get_label(self, idx: int) -> np.ndarray:
        """Return the pose of a sample, float32 25 (0 numbers without poses), without decoding its image."""
        # Without poses, networks get a condition of no numbers.
        if not self.has_labels:
            return np.zeros(0, np.float32)

        # Mirrored with its image: the scene mirrored in x, seen from the mirrored camera.
        pose = self.index.poses[self._raw_idx[idx]]
        if self.mirror_pose and self._xflip[idx]:
            return mirror_pose(torch.from_numpy(pose)[None])[0].numpy()

        # A copy: callers may change the sample, but not the data set.
        return pose.copy()

    def get_details(self, idx: int) -> Details:
        """Return the origin of a sample."""
        raw_idx = int(self._raw_idx[idx])
        return Details(raw_idx, bool(self._xflip[idx]), self.index.images[raw_idx])

    def views_of(self, idx: int) -> np.ndarray:
        """Return all samples of the same object as a sample, itself included, ascending; mirrored if that one is."""
        number = self.objects[idx]
        return self._by_object[self._starts[number] : self._starts[number + 1]]

    def get_label_std(self) -> np.ndarray:
        """Return the population standard deviation of all stored poses: 25 numbers, or 0 without poses."""
        return self.index.poses.std(axis=0) if self.has_labels else np.zeros(0, np.float32)

    def _mirror_if_xflip(self, pixels: np.ndarray, idx: int) -> np.ndarray:
        # PyTorch cannot wrap the negative stride of a reversed view.
        return np.ascontiguousarray(pixels[..., ::-1]) if self._xflip[idx] else pixels

    def _read_image(self, raw_idx: int) -> np.ndarray:
        """Return image `raw_idx` of the archive, uint8 3,R,R."""
        return self.images.decode(self.index.images[raw_idx], self._decode_image)

    def _decode_image(self, content: bytes) -> np.ndarray:
        image = decode_image(content)
        check_image_size(image, self.resolution)
        return image

    def _decode_label_map(self, content: bytes) -> np.ndarray:
        """Decode uint8 R,R; edge maps are resized to the images' size, class ids must have it."""
        # The published loader resizes drawings, so they may have another size than the images.
        if self.data_type == "edge":
            return decode_edges(content, self.resolution)

        # Resizing class ids would hide that they belong to other images.
        ids = decode_class_ids(content)
        check_class_ids_size(ids, self.resolution)
        check_class_range(ids, self.classes)
        return ids


def _subset(count: int, max_size: int | None, seed: int) -> np.ndarray:
    """Choose `max_size` of `count` indices, ascending, as the published code does."""
    order = np.arange(count, dtype=np.int64)
    if max_size is None or max_size >= count:
        return order

    # The published code's generator and seed; another one would choose other images.
    np.random.RandomState(seed % (1 << 31)).shuffle(order)
    return np.sort(order[:max_size])


# --------------------------------------------------------------------------- published data sets


@dataclass(frozen=True)
class PublishedData:
    """File names of a published data set in a data directory."""

    images: str
    label_maps: str
    data_type: str

    def open(self, data_dir: str | os.PathLike[str], **kwargs) -> PosedImageDataset:
        """Open the data set in `data_dir`; `kwargs` are arguments of PosedImageDataset."""
        directory = Path(data_dir)
        return PosedImageDataset(directory / self.images, directory / self.label_maps, self.data_type, **kwargs)


# Data set of each configuration, by the file names under which the authors distribute it.
PUBLISHED = {
    "seg2cat": PublishedData("afhq_v2_train_cat_512.zip", "afhqcat_seg_6c.zip", "seg"),
    "seg2face": PublishedData("celebamask_test.zip", "celebamask_test_label.zip", "seg"),
    "edge2car": PublishedData("cars_128.zip", "shapenet_car_contour.zip", "edge"),
    "edge2cat": PublishedData("afhq_v2_train_cat_512.zip", "afhqcat_contour_pidinet.zip", "edge"),
}
