"""Training samples with a second view of the same object."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages
from training.data.sampler import Draw, DrawnDataset

# Entries of a sample that its target view has too, those that the data set has.
TARGET_KEYS = ("image", "mask", "pose")


class ViewPairs(DrawnDataset):
    """Samples of a data set, each with a target: a random view of the same object, which may be the same view.

    A sample is a dict with all entries of PosedImageDataset, and of the target:
        target_image: uint8 3,R,R.
        target_mask: uint8 1,R,R; absent without label maps.
        target_pose: float32 25.
        target_depth: float32 1,R,R, world units, 0 where there is no object; absent without `depth`.
    The target of a mirrored sample is mirrored too. It depends only on the seed and the position of the draw, so it is
    the same for any number of processes and after a resume.

    Args:
        dataset: the data set.
        depth: depth of its images, or None.
        seed: random seed of the choice.
        other_views: False always takes the sample itself as the target.
    """

    def __init__(self, dataset: PosedImageDataset, depth: DepthImages | None, seed: int, other_views: bool):
        self.dataset = dataset
        self.depth = depth
        self.seed = seed
        self.other_views = other_views

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict[str, np.ndarray | Tensor | int]:
        # Decode the view only once if it is its own target.
        sample = self.dataset[draw.index]
        target_idx = self._choose_target(draw)
        target = sample if target_idx == draw.index else self.dataset[target_idx]

        # Depth only of the target: the input view is not rendered.
        pair = {**sample, **{f"target_{key}": target[key] for key in TARGET_KEYS if key in target}}
        if self.depth is not None:
            pair["target_depth"] = self.depth.read(self.dataset, target_idx)
        return pair

    def _choose_target(self, draw: Draw) -> int:
        """Return the sample that is the target of a draw."""
        if not self.other_views:
            return draw.index
        views = self.dataset.views_of(draw.index)
        return int(np.random.default_rng([self.seed, draw.position]).choice(views))
