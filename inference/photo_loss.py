"""Losses between a photo and the scene that should reproduce it: those of patch training, at the photo's pose."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training import loss_terms
from training.networks.generator import FEATURES, TriPlane
from training.patch_loss import FINAL_IMAGE_WEIGHT, PatchTarget
from training.patches import PixelGrid, sample_patches, sample_strided
from training.perceptual import Perceptual

# Largest weight of a rare class relative to the mean over all pixels.
MAX_CLASS_WEIGHT = 4.0


class PhotoLoss:
    """Loss terms of random pixels of a photo and its label map.

    Args:
        G: the generator, of which only the sizes are used.
        photo: 1,3,R,R in [-1, 1].
        label_map: 1,1,R,R class ids, or edges.
        pose: 1,25 that the photo is seen from.
        lambda_labels: weight of the label map.
        lambda_lpips: weight of LPIPS, if `perceptual` is given.
        perceptual: image distance.
    """

    def __init__(
        self,
        G: TriPlane,
        photo: Tensor,
        label_map: Tensor,
        pose: Tensor,
        lambda_labels: float,
        lambda_lpips: float,
        perceptual: Perceptual | None,
    ):
        self.batch = {"target_image": photo, "target_mask": label_map}
        self.pose = pose
        self.lambda_labels = lambda_labels
        self.lambda_lpips = lambda_lpips
        self.perceptual = perceptual
        self.is_seg = G.data_type == "seg"

        # Raw pixels cover a whole number of pixels of the photo. Patches can be super-resolved if the super-resolution
        # does not resize its input, else the whole image is rendered in every step.
        self.resolution = G.img_resolution >> round(math.log2(G.img_resolution / G.neural_rendering_resolution))
        self.has_patches = self.resolution == G.superresolution.layout.input
        self.size = self.resolution // 2 if self.has_patches else self.resolution
        pixels = torch.arange(self.resolution, device=photo.device)[None]
        self.whole = PixelGrid(pixels, pixels, self.resolution, is_patch=False)

        # Rare classes, such as eyes, count more.
        self.class_weights = torch.ones(1, 1, 1, 1, device=photo.device)
        if self.is_seg:
            counts = torch.bincount(label_map.flatten(), minlength=G.semantic_channels).tolist()
            weights = loss_terms.class_weights("auto", G.semantic_channels, counts)
            self.class_weights = photo.new_tensor(weights).clamp(max=MAX_CLASS_WEIGHT).view(1, -1, 1, 1)

    def sample_grid(self, step: int) -> PixelGrid:
        """Choose the pixels of a step, in turn spread over the image and neighbors."""
        sample = sample_patches if step % 2 else sample_strided
        return sample(1, self.size, self.resolution, self.pose.device)

    def render(self, G: TriPlane, ws: Tensor, planes: Tensor, grid: PixelGrid) -> Tensor:
        """Render the features 1,F,h,w of a grid from the photo's pose."""
        features = G.render_rays(ws, planes, *grid.rays(self.pose), noise_mode="const").features
        return features.mT.unflatten(2, (grid.rows.shape[1], grid.columns.shape[1]))

    def terms(self, G: TriPlane, ws: Tensor, planes: Tensor, grid: PixelGrid) -> dict[str, Tensor]:
        """Compute weighted terms, scalars by name, of the scene of ws (1,num_ws,w_dim) and its planes (1,3,C,P,P)."""
        target = PatchTarget(self.batch, grid, G)
        features = self.render(G, ws, planes, grid)
        image = features[:, : G.img_channels]
        labels = features[:, FEATURES : FEATURES + G.semantic_channels]
        weight = target.pixel_weight(self.class_weights)
        terms = {
            "image_raw": loss_terms.image_error(image, target.image_raw, weight, grid.is_patch),
            "labels_raw": self._label_term(labels, target.labels_raw, torch.ones_like(weight)),
        }
        if not grid.is_patch:
            return terms

        # Super-resolution of a patch.
        color_ws, label_ws = ws.chunk(2, dim=-1) if G.architecture.split else (ws, ws)
        networks = (G.superresolution, G.superresolution_semantic)
        color_sr, label_sr = (network.upsample if self.has_patches else network for network in networks)
        noise_mode = G.rendering_kwargs["superresolution_noise_mode"]
        final = color_sr(image, features[:, :FEATURES], color_ws, noise_mode)
        final_labels = label_sr(labels, features[:, FEATURES:], label_ws, noise_mode)

        weight = target.final_pixel_weight(self.class_weights) * target.interior
        terms["image"] = FINAL_IMAGE_WEIGHT * loss_terms.image_error(final, target.image, weight, gradients=True)
        terms["labels"] = self._label_term(final_labels, target.labels, target.interior)
        if self.perceptual is not None:
            terms["lpips"] = self.lambda_lpips * self.perceptual(final, target.image).mean()
        return terms

    def _label_term(self, labels: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy of logits 1,S,h,w, or error of edges; weights 1,1,h,w."""
        if self.is_seg:
            term = loss_terms.soft_cross_entropy(labels, target, self.class_weights * weight)
        else:
            term = loss_terms.edge_error(labels, target, weight)
        return self.lambda_labels * term

    @torch.no_grad()
    def error(self, G: TriPlane, ws: Tensor, poses: Tensor | None = None) -> Tensor:
        """Compute the error of raw image and labels of the scene of ws (1,num_ws,w_dim), one for each of N,25 poses."""
        poses = self.pose if poses is None else poses
        names = {"image_raw", "semantic_raw"}
        out = G.synthesis(ws, poses, self.resolution, noise_mode="const", jitter=False, outputs=names)
        target = PatchTarget(self.batch, self.whole, G)

        # Mean over pixels, per pose.
        weight = target.pixel_weight(self.class_weights)
        image = loss_terms.color_error(out["image_raw"] - target.image_raw) * weight
        labels = [
            self._label_term(row, target.labels_raw, torch.ones_like(weight)) for row in out["semantic_raw"].split(1)
        ]
        return image.mean(dim=(1, 2, 3)) / weight.mean() + torch.stack(labels)


def resize_photo(photo: Tensor, resolution: int) -> Tensor:
    """Resize a photo 1,3,H,H in [-1, 1] to 1,3,R,R, averaging where it shrinks."""
    if photo.shape[-1] % resolution == 0:
        return F.avg_pool2d(photo, photo.shape[-1] // resolution)
    resized = F.interpolate(photo, (resolution, resolution), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(-1, 1)
