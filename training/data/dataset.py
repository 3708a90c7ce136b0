"""Posed pictures with their label maps, as training and the applications read them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from camera_utils import mirror_pose
from training.data.archive import Archive, DataError, data_error
from training.data.checks import check_dataset
from training.data.image_io import decode_class_ids, decode_edges, decode_image
from training.data.index import build_index

DATA_TYPES = ("seg", "edge")


@dataclass(frozen=True)
class Details:
    """Where a sample comes from."""

    raw_idx: int
    xflip: bool
    raw_label: np.ndarray  # the stored pose, 25, before any mirroring
    name: str


class PosedImageDataset(torch.utils.data.Dataset):
    """Images, label maps and poses in EG3D's form: zip or folder on both sides, paired by name.

    A sample is a dict: `image` uint8 3,R,R; `mask` uint8 1,R,R (class ids, or stored edges: 0 background, high on
    lines; absent without `mask_path`); `pose` float32 25 (0 numbers with `use_labels` off); `idx`.
    Order: by path; with `xflip` the mirrored copies follow after all others.

    Args:
        path: images and dataset.json.
        mask_path: label maps.
        data_type: "seg" (class ids) or "edge" (dark lines on white).
        resolution: the size that the images must have; None takes any.
        use_labels: read the poses.
        max_size: use a random subset of this many images, chosen by `random_seed`.
        xflip: add a mirrored copy of every sample.
        mirror_pose: mirror its pose too; the published training leaves it as it is (False).
        semantic_channels: number of classes; if given, every file is opened once now and its class ids are checked.
    Raises:
        DataError: anything that would fail later, with the name of the file.
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
        random_seed: int = 0,
        semantic_channels: int | None = None,
    ):
        if data_type not in DATA_TYPES:
            raise ValueError(f"data_type: got {data_type!r}, allowed are {', '.join(DATA_TYPES)}")
        self.data_type, self.mirror_pose = data_type, mirror_pose
        self.images = Archive(path)
        self.label_maps = None if mask_path is None else Archive(mask_path)
        self.index = build_index(self.images, self.label_maps, use_labels)
        if self.index.problems:
            raise DataError(path, self.index.problems)
        if semantic_channels is not None:
            problems = check_dataset(self.images, self.label_maps, self.index, data_type, semantic_channels).problems
            if problems:
                raise DataError(path, problems)

        first = self._decode(self.images, self.index.images[0], decode_image)
        self.resolution = first.shape[1]
        self._check_size(self.index.images[0], first)
        if resolution not in (None, self.resolution):
            raise data_error(path, self.index.images[0], f"{self.resolution} pixels, expected {resolution}")
        self._raw_idx = _subset(len(self.index.images), max_size, random_seed)
        self._xflip = np.zeros(len(self._raw_idx), bool)
        if xflip:
            self._xflip = np.repeat([False, True], len(self._raw_idx))
            self._raw_idx = np.tile(self._raw_idx, 2)

    def __len__(self) -> int:
        return len(self._raw_idx)

    def __getitem__(self, idx: int) -> dict[str, np.ndarray | int]:
        raw, flip = int(self._raw_idx[idx]), bool(self._xflip[idx])
        name = self.index.images[raw]
        image = self._decode(self.images, name, decode_image)
        self._check_size(name, image)
        return {"image": _mirrored(image) if flip else image, **self.get_conditions(idx)}

    def get_conditions(self, idx: int) -> dict[str, np.ndarray | int]:
        """A sample without its image, which is not decoded."""
        raw, flip = int(self._raw_idx[idx]), bool(self._xflip[idx])
        sample = {}
        if self.label_maps is not None:
            mask = self._label_map(self.index.label_maps[raw])[None]
            sample["mask"] = _mirrored(mask) if flip else mask
        return {**sample, "pose": self.get_label(idx), "idx": int(idx)}

    def get_label(self, idx: int) -> np.ndarray:
        """Pose of a sample, float32 25, mirrored where the sample is; without decoding its picture."""
        pose = self._stored_pose(int(self._raw_idx[idx]))
        if self.has_labels and self.mirror_pose and self._xflip[idx]:
            return mirror_pose(torch.from_numpy(pose)[None])[0].numpy()
        return pose.copy()

    def get_details(self, idx: int) -> Details:
        """Origin of a sample."""
        raw = int(self._raw_idx[idx])
        return Details(raw, bool(self._xflip[idx]), self._stored_pose(raw).copy(), self.index.images[raw])

    def get_label_std(self) -> np.ndarray:
        """Population standard deviation of all stored poses: 25 numbers, none without poses."""
        return self.index.poses.std(axis=0) if self.has_labels else np.zeros(0, np.float32)

    @property
    def name(self) -> str:
        return self.images.stem

    @property
    def has_labels(self) -> bool:
        return self.index.poses is not None

    @property
    def label_shape(self) -> list[int]:
        return [25 if self.has_labels else 0]

    @property
    def label_dim(self) -> int:
        return self.label_shape[0]

    @property
    def num_channels(self) -> int:
        return 3

    @property
    def image_shape(self) -> list[int]:
        return [self.num_channels, self.resolution, self.resolution]

    def _stored_pose(self, raw: int) -> np.ndarray:
        return self.index.poses[raw] if self.has_labels else np.zeros(0, np.float32)

    def _label_map(self, name: str) -> np.ndarray:
        """H,W uint8; edges are resized to the images' size, class maps must have it."""
        if self.data_type == "edge":
            return self._decode(self.label_maps, name, partial(decode_edges, resolution=self.resolution))
        ids = self._decode(self.label_maps, name, decode_class_ids)
        if ids.shape != (self.resolution, self.resolution):
            raise data_error(self.label_maps.path, name, f"{_size(ids)} pixels, its image has {self.resolution}")
        return ids

    def _check_size(self, name: str, image: np.ndarray) -> None:
        size = self.resolution
        if image.shape[1:] != (size, size) or size & (size - 1):
            what = f"{_size(image)} pixels, all images must be square, a power of two, and as large as the first"
            raise data_error(self.images.path, name, what)

    @staticmethod
    def _decode(archive: Archive, name: str, decode) -> np.ndarray:
        content = archive.read(name)
        try:
            return decode(content)
        except ValueError as error:
            raise data_error(archive.path, name, str(error)) from error


ImageFolderDataset = PosedImageDataset  # published names, as configurations and scripts spell them
ImageSegFolderDataset = partial(PosedImageDataset, data_type="seg")
ImageEdgeFolderDataset = partial(PosedImageDataset, data_type="edge")


def _subset(count: int, max_size: int | None, seed: int) -> np.ndarray:
    order = np.arange(count, dtype=np.int64)
    if max_size is None or max_size >= count:
        return order
    np.random.RandomState(seed % (1 << 31)).shuffle(order)
    return np.sort(order[:max_size])


def _mirrored(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., ::-1])


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"


# --------------------------------------------------------------------------- published data sets


@dataclass(frozen=True)
class PublishedData:
    """File names of a published data set inside `--data_dir`."""

    images: str
    label_maps: str
    data_type: str

    def open(self, data_dir: str | os.PathLike[str], **options) -> PosedImageDataset:
        """The data set below `data_dir`; `options` as of PosedImageDataset."""
        folder = Path(data_dir)
        return PosedImageDataset(folder / self.images, folder / self.label_maps, self.data_type, **options)


PUBLISHED = {  # what --cfg implies for --data_dir
    "seg2cat": PublishedData("afhq_v2_train_cat_512.zip", "afhqcat_seg_6c.zip", "seg"),
    "seg2face": PublishedData("celebamask_test.zip", "celebamask_test_label.zip", "seg"),
    "edge2car": PublishedData("cars_128.zip", "shapenet_car_contour.zip", "edge"),
    "edge2cat": PublishedData("afhq_v2_train_cat_512.zip", "afhqcat_contour_pidinet.zip", "edge"),
}
