"""Terms of the training loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy2d(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of label maps, over the sum of the pixels' class weights.

    Args:
        logits: N,S,h,w; of another size than the target they are resized bilinearly, corners on corners.
        target: N,H,W class ids.
        weight: S factors of the classes, None for 1.
    """
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(logits, target.long(), weight)
