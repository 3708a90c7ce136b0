"""What the loss weighs, and its schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class LossOptions:
    """What the loss weighs, and its schedules; defaults of the training command, without its schedules by batch size.

    Args:
        r1_gamma: weight of R1.
        random_c_prob: share of rounds rendered from a pose other than the sample's own.
        lambda_l1, lambda_lpips: of the image's reconstruction.
        lambda_D_semantic: of the label discriminator's judgment of G.
        seg_weight: of the classes in the labels' cross-entropy: 0 none, 1 and 2 the published tables of 19 classes,
            "auto" the formula of table 1 on the data set's own counts.
        edge_weight: of edge maps' reconstruction.
        only_raw_recons: reconstruct at the rendering resolution alone.
        silhouette_loss: hold the foreground's opacity to "not class 0" (background model, seg).
        lambda_cross_view: of cross-view consistency.
        filter_mode: how real images are brought to the rendering resolution, see `filtered_resizing`.
        blur_init_sigma, blur_fade_kimg: blur of what discriminators see, pixels; linear to 0.
        neural_rendering_resolution_...: initial, or linear to final over fade_kimg.
    Raises:
        ValueError: a value out of range.
    """

    r1_gamma: float
    random_c_prob: float = 0
    lambda_l1: float = 0
    lambda_lpips: float = 10
    lambda_D_semantic: float = 1
    seg_weight: float | str = 0
    edge_weight: float = 2
    only_raw_recons: bool = False
    silhouette_loss: bool = False
    lambda_cross_view: float = 0
    filter_mode: str | float = "antialiased"
    blur_init_sigma: float = 10
    blur_fade_kimg: float = 200
    neural_rendering_resolution_initial: int = 64
    neural_rendering_resolution_final: int | None = None
    neural_rendering_resolution_fade_kimg: float = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name}: expected a finite number of at least 0, got {value}")
        if self.random_c_prob > 1:
            raise ValueError(f"random_c_prob: expected 0 to 1, got {self.random_c_prob}")
        if self.seg_weight not in (0, 1, 2, "auto"):
            raise ValueError(f"seg_weight: expected 0, 1, 2 or auto, got {self.seg_weight!r}")

    def blur_sigma(self, cur_nimg: float) -> float:
        """Standard deviation (in units where exp2 takes the place of exp) of the blur, pixels."""
        if self.blur_fade_kimg == 0:
            return 0.0
        return self.blur_init_sigma * max(1 - cur_nimg / (self.blur_fade_kimg * 1000), 0)

    def rendering_resolution(self, cur_nimg: float) -> int:
        """Side of the raw image, pixels."""
        initial, final = self.neural_rendering_resolution_initial, self.neural_rendering_resolution_final
        if final is None:
            return initial
        fade = self.neural_rendering_resolution_fade_kimg * 1000
        done = min(cur_nimg / fade, 1) if fade > 0 else 1
        return round(initial + (final - initial) * done)
