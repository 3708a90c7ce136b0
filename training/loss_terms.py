"""Loss terms as pure functions on tensors; `training.loss` weighs them and runs the phases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import ConfigError

BLUR_SIGMAS = 3  # half width of the blur filter, in standard deviations

# Published weights of the 19 classes of CelebAMask-HQ: 1 / sqrt(19 * share of the pixels). `seg_weight` 2 squares them.
CLASS_WEIGHTS = (
    *(0.42768099, 0.45614868, 1.59952169, 4.38863045, 4.85695198, 4.86439145, 3.53563349, 3.57896961, 3.37838867),
    *(3.66981824, 4.17743386, 3.5624441, 2.78190484, 0.40917425, 2.38560636, 4.65813434, 17.17367367, 1.13303585),
    1.25281865,
)

# Keeps the logarithm of an empty ray's opacity finite.
OPACITY_EPS = 1e-6

# Weight of squared errors of colors beside L1: both have the same gradient at an error of 1/6, in [-1, 1].
SQUARED_ERROR = 3

# --------------------------------------------------------------------------- discriminators


def logistic_loss_real(logits: Tensor) -> Tensor:
    """Return softplus(-logits) of N,1 logits as N values: low where a discriminator calls its inputs real.

    Discriminators minimize it on real samples, the generator on rendered ones (Goodfellow et al. 2014,
    non-saturating).
    """
    # Softplus is log(1 + e^x), the logarithm of the sigmoid without its overflow.
    return F.softplus(-logits[:, 0])


def logistic_loss_fake(logits: Tensor) -> Tensor:
    """Return softplus(logits) of N,1 logits as N values: low where a discriminator calls its inputs fake."""
    return F.softplus(logits[:, 0])


def r1_penalty(logits: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Sum the squared gradients of real logits with respect to the images (Mescheder et al. 2018).

    Only paths from the logits to the images are differentiated, so no weight gradients are computed here.

    Args:
        logits: N,1.
        images: discriminator inputs N,C,H,W that require gradients; inputs that the logits do not depend on count 0.
    Returns:
        N penalties, differentiable.
    """
    # Of the sum, as a sample's logit depends on its own images only. The graph is kept: the penalty is trained too.
    gradients = torch.autograd.grad(logits.sum(), images, create_graph=True, allow_unused=True)
    return sum(gradient.square().sum([1, 2, 3]) for gradient in gradients if gradient is not None)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur square images N,C,H,H with the filter 2^-(x / sigma)^2, normalized; outside the image all is 0.

    Two products with a banded matrix are four to ten times as fast on a CPU as a separable filter of 61 taps.

    Args:
        image: N,C,H,H.
        sigma: standard deviation up to the base of the exponential, pixels; below 1 / BLUR_SIGMAS nothing is done.
    Returns:
        N,C,H,H.
    """
    # Taps further away are cut off.
    half_width = math.floor(BLUR_SIGMAS * sigma)
    if half_width == 0:
        return image

    # Normalization: the sum over all taps, also where the image's border cuts some of them off.
    taps = torch.arange(-half_width, half_width + 1, device=image.device)
    total = taps.div(sigma).square().neg().exp2().sum()

    # One matrix filters columns from the left and, being symmetric, rows from the right.
    pixels = torch.arange(image.shape[-1], device=image.device)
    distances = (pixels[:, None] - pixels).abs()  # H,H
    band = distances.div(sigma).square().neg().exp2().masked_fill(distances > half_width, 0) / total
    return band @ image @ band


# --------------------------------------------------------------------------- label maps


def cross_entropy2d(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the mean cross-entropy of label maps, normalized by the sum of the class weights of all pixels.

    Args:
        logits: N,S,h,w; resized bilinearly (align_corners) if the target has another size.
        target: N,H,W class ids.
        weight: S class weights, None for 1.
    Returns:
        Scalar.
    """
    # Logits are resized, as class ids cannot be interpolated.
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(logits, target.long(), weight)


def silhouette(opacity: Tensor, label_map: Tensor) -> Tensor:
    """Compare the foreground's opacity with the pixels that are not class 0, as a mean squared error.

    Args:
        opacity: N,1,r,r in [0, 1].
        label_map: N,1,r,r class ids.
    Returns:
        Scalar.
    """
    return F.mse_loss(opacity, (label_map > 0).to(opacity))


def one_hot(label_map: Tensor, classes: int) -> Tensor:
    """Turn class ids N,1,H,W into one channel per class, N,S,H,W integers 0 or 1."""
    return F.one_hot(label_map[:, 0].long(), classes).permute(0, 3, 1, 2)


def class_weights(seg_weight: float | str, classes: int, counts: Sequence[int] | None = None) -> list[float] | None:
    """Return the class weights of the label cross-entropy, None for equal weights.

    Args:
        seg_weight: 0 (equal), 1 or 2 (published table and its squares), or "auto", which applies the formula of the
            published table to `counts`.
        classes: number of classes S.
        counts: pixels of each class in the data set, S numbers; needed by "auto".
    Raises:
        ConfigError: a published table for other than 19 classes, or invalid counts.
    """
    if seg_weight == 0:
        return None

    # The rarer a class, the larger its weight; a class without pixels counts as if it had one.
    if seg_weight == "auto":
        if counts is None or len(counts) != classes or min(counts) < 0 or sum(counts) == 0:
            raise ConfigError("class_counts", counts, f"the number of pixels of each of {classes} classes")
        return [math.sqrt(sum(counts) / (classes * max(count, 1))) for count in counts]

    # The published table, or its squares.
    if classes != len(CLASS_WEIGHTS):
        problem = f"the published weights are for {len(CLASS_WEIGHTS)} classes, this model has {classes}"
        raise ConfigError("seg_weight", seg_weight, problem=problem, hint="use 0 or auto")
    return [weight**seg_weight for weight in CLASS_WEIGHTS]


# --------------------------------------------------------------------------- patches


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x (N,C,H,W) over all elements with weights (N,1,H,W), a scalar; 0 where all weights are 0."""
    total = weight.sum() * x.shape[1]
    return (x * weight).sum() / total.clamp(min=1e-6)


def color_error(error: Tensor) -> Tensor:
    """Return L1 plus a share of squared error, elementwise, for errors of any shape.

    L1 alone asks for the median: where most objects are gray it learns hue late, as a small response to the style costs
    gray objects as much as it helps the others. Squared errors regress it from the start.
    """
    return error.abs() + SQUARED_ERROR * error.square()


def image_error(fake: Tensor, real: Tensor, weight: Tensor, gradients: bool) -> Tensor:
    """Compute the weighted color error of images and, if asked for, L1 of their gradients at two scales.

    Gradients (differences of neighboring pixels) penalize blur, which L1 of the values alone prefers to misplaced
    detail.

    Args:
        fake, real: N,3,H,W; neighboring pixels if `gradients`.
        weight: N,1,H,W pixel weights.
    Returns:
        Scalar.
    """
    error = fake - real
    loss = weighted_mean(color_error(error), weight)
    if not gradients:
        return loss

    # At full and at half resolution.
    for _ in range(2):
        along_rows = weighted_mean(error.diff(dim=3).abs(), weight[..., 1:])
        along_columns = weighted_mean(error.diff(dim=2).abs(), weight[..., 1:, :])
        loss = loss + (along_rows + along_columns) / 2
        error = F.avg_pool2d(error, 2)
        weight = F.avg_pool2d(weight, 2)
    return loss


def soft_cross_entropy(logits: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """Compute the cross-entropy of pixels that show several classes, normalized by the sum of the weights.

    Args:
        logits: N,S,H,W.
        shares: N,S,H,W share of each class in the pixel, sum 1.
        weight: N,S,H,W or broadcastable, weight of each class and pixel.
    Returns:
        Scalar.
    """
    weighted = shares * weight
    return -(weighted * logits.log_softmax(dim=1)).sum() / weighted.sum().clamp(min=1e-6)


def line_weights(edges: Tensor) -> Tensor:
    """Weights N,1,H,W of the pixels of edge drawings N,1,H,W in [-1 line, 1 background] by frequency.

    The formula is that of `class_weights` for two classes: lines cover few pixels, but are what the drawing shows.
    """
    line = (1 - edges) / 2
    share = line.mean().clamp(1e-4, 1 - 1e-4)
    return line * (2 * share).rsqrt() + (1 - line) * (2 * (1 - share)).rsqrt()


def edge_error(edges: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Compute the smooth L1 error of edge drawings N,1,H,W, in which lines count more than their few pixels.

    Args:
        edges, target: N,1,H,W in [-1 line, 1 background].
        weight: N,1,H,W or broadcastable, further weights.
    Returns:
        Scalar.
    """
    error = F.smooth_l1_loss(edges, target, reduction="none")
    return weighted_mean(error, (line_weights(target) * weight).expand_as(error))


def depth_distance(depths: Tensor, weights: Tensor, weight_sum: Tensor, target: Tensor, miss: float) -> Tensor:
    """Expected distance from samples to the known depth of their ray, and cross-entropy of its opacity.

    Stricter than the error of the expected depth: it also asks for a thin surface. The logarithm of the opacity has a
    gradient however transparent a ray is, so that a scene that became empty can recover.

    Args:
        depths, weights: N,M,T of the samples.
        weight_sum: N,M,1 opacity.
        target: N,M known depth.
        miss: weight of the cross-entropy, world units.
    Returns:
        N,M world units.
    """
    distance = (weights * (depths - target[..., None]).abs()).sum(dim=-1)
    return distance - weight_sum[..., 0].add(OPACITY_EPS).log() * miss


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of the normal distributions of mean and log-variance N,z_dim to N(0, 1): N values, nats."""
    return (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1) / 2


def region_means(image: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colors of regions.

    Args:
        image: N,3,H,W.
        regions: N,K,H,W membership of each pixel in each region, 0 to 1.
    Returns:
        N,K,3 means, 0 for empty regions; N,K pixels in each region.
    """
    pixels = regions.sum(dim=(2, 3))  # N,K
    sums = torch.einsum("nchw,nkhw->nkc", image, regions)
    return sums / pixels[..., None].clamp(min=1), pixels
