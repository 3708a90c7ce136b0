"""Loss of patch training: reconstruct patches of the same object from any view, with the style of its photo.

Gmain            reconstruction of image, labels and depth; KL of the style; late: a discriminator of patches
Greg             density regularization
D_patch...       logistic loss and R1 of the discriminator of patches

z comes from the style encoder of the input photo, or, for a share of the samples, from the prior; what a photo's
colors are is not known for those, so only labels, geometry and the discriminator train them (cVAE-GAN, Zhu et al.
2017).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import ConfigError
from training import loss_terms
from training.density_regularization import DensityRegularization
from training.networks.generator import FEATURES
from training.networks.style_encoder import sample_normal
from training.options import LossOptions, PatchOptions, StyleOptions
from training.patches import (
    BACKGROUND_RADIUS,
    DepthTarget,
    PixelGrid,
    depth_target,
    far_side,
    sample_patches,
    sample_strided,
)
from training.perceptual import Perceptual
from training.volumetric_rendering.renderer import WeightedRendering, render_weighted

# The final image shows more than the raw one.
FINAL_IMAGE_WEIGHT = 2

# Samples of a ray with known depth: evenly spaced ones, and these offsets from the surface with noise, as shares of the
# rays' length.
EVEN_SAMPLES = 6
SURFACE_OFFSETS = (-0.045, -0.018, 0.0, 0.02, 0.05)
SURFACE_NOISE = 0.012

# Regions of fewer pixels at the style encoder's resolution have no reliable mean color.
SMALLEST_REGION = 4

# White of a rendered background: pixels that are darker in any channel belong to the object.
WHITE = 0.96


@dataclass(frozen=True)
class Style:
    """Latent codes of a microbatch.

    Args:
        z: N,z_dim.
        has_photo: N, 1 where z is from the photo, 0 where it is from the prior.
        terms: weighted loss terms, scalars by name.
    """

    z: Tensor
    has_photo: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class PatchPair:
    """Rendered and real patches, as the discriminator sees them.

    Args:
        fake, real: N,3,H,W in [-1, 1].
        labels: N,S,H,W label channels of the real patch, which condition both.
    """

    fake: Tensor
    real: Tensor
    labels: Tensor


class PatchLoss:
    """Gradients of every phase of patch training.

    Args:
        options: weights of reconstruction terms.
        patches: options of patches, views, depth and the discriminator.
        style: options of the style encoder; None without E.
        G: generator that renders labels.
        E: style encoder; None samples every z from the prior.
        D_patch: discriminator of patches and label channels; None for none.
        perceptual: image distance, needed if lambda_lpips is above 0.
        class_counts: pixels of each class in the data set, S numbers; needed if seg_weight is "auto".
    """

    def __init__(
        self,
        options: LossOptions,
        patches: PatchOptions,
        style: StyleOptions | None,
        G: nn.Module,
        E: nn.Module | None = None,
        D_patch: nn.Module | None = None,
        perceptual: Perceptual | None = None,
        class_counts: Sequence[int] | None = None,
    ):
        self.options = options
        self.patches = patches
        self.style = style
        self.G = G
        self.E = E
        self.D_patch = D_patch
        self.perceptual = perceptual
        self.is_seg = G.data_type == "seg"
        self.density_regularization = DensityRegularization.from_generator(G)

        # Class weights 1,S,1,1; equal ones are 1.
        self.class_weights = torch.ones(1, 1, 1, 1, device=next(G.parameters()).device)
        if self.is_seg:
            weights = loss_terms.class_weights(options.seg_weight, G.semantic_channels, class_counts)
            weights = weights or [1.0] * G.semantic_channels
            self.class_weights = self.class_weights.new_tensor(weights).view(1, -1, 1, 1)

        # Patches of this iteration, one pair per microbatch: the discriminator trains on what Gmain has rendered.
        self._pairs: deque[PatchPair] = deque()
        self._pairs_nimg = -1.0

    def accumulate_gradients(
        self,
        phase: str,
        batch: Mapping[str, Tensor],
        gen_z: Tensor,
        gen_c: Tensor,
        gain: float = 1,
        cur_nimg: float = 0,
    ) -> dict[str, Tensor]:
        """Add the gradients of one microbatch to the networks that a phase trains.

        Args:
            phase: Gmain, Greg, Gboth, D_patchmain, D_patchreg.
            batch: real samples: image N,3,R,R in [-1, 1], mask N,1,R,R, pose N,25, the same of the target view as
                target_image, target_mask, target_pose, and target_depth N,1,R,R where depth is known.
            gen_z: N,z_dim latent codes of the prior.
            gen_c: N,25 random poses; not used, since patches are rendered from the target's pose.
            gain: factor of the loss.
            cur_nimg: images shown so far.
        Returns:
            Detached values to report by name.
        Raises:
            ConfigError: unknown phase.
        """
        # No memory or time for gradients of the networks that this phase does not train.
        trained = phase.removesuffix("main").removesuffix("reg").removesuffix("both")
        for name, network in {"G": self.G, "E": self.E, "D_patch": self.D_patch}.items():
            if network is not None:
                network.requires_grad_(name == trained or (name == "E" and trained == "G"))

        match phase:
            case "Gmain" | "Gboth":
                return self._train_generator(batch, gen_z, gain, cur_nimg)
            case "Greg":
                return self._regularize_density(batch, gen_z, gain)
            case "D_patchmain" | "D_patchboth":
                return self._train_discriminator(gain)
            case "D_patchreg":
                return self._regularize_discriminator(gain)
        raise ConfigError("phase", phase, "Gmain, Greg, Gboth, D_patchmain, D_patchreg")

    # ----------------------------------------------------------------------- Gmain

    def _train_generator(
        self, batch: Mapping[str, Tensor], prior_z: Tensor, gain: float, cur_nimg: float
    ) -> dict[str, Tensor]:
        """Gmain: encode label map and style of one view, reconstruct a patch of the target view."""
        grid = self._sample_grid(batch, cur_nimg)
        target = PatchTarget(batch, grid, self.G)
        style = self._sample_style(batch, prior_z, cur_nimg)

        # Scene of the input view. Without noise: reconstruction would average over it.
        ws = self.G.mapping(style.z, batch["pose"], batch, update_emas=True)
        planes = self.G.planes(ws, noise_mode="none")

        # Rays of the target view.
        origins, directions = grid.rays(batch["target_pose"])
        depth = self._depth_target(batch, grid, origins, directions)
        samples = self._guided_depths(depth, cur_nimg)
        rendering = render_weighted(self.G.field(planes), origins, directions, self.G.ray_options(), samples)

        # Weighted terms; a target other than the input view can have another weight.
        is_input = (batch["target_pose"] == batch["pose"]).all(dim=1)
        view_weight = torch.where(is_input, 1.0, self.patches.lambda_novel_view).view(-1, 1, 1, 1)
        photo_weight = view_weight * style.has_photo.view(-1, 1, 1, 1)
        features = rendering.features.mT.unflatten(2, (grid.rows.shape[1], grid.columns.shape[1]))  # N,F,h,w
        terms = {**style.terms, **self._raw_terms(features, target, view_weight, photo_weight)}
        if depth is not None:
            terms["depth"] = self._depth_term(rendering, depth, view_weight)
        if grid.is_patch:
            terms |= self._final_terms(features, ws, target, view_weight, photo_weight, cur_nimg)

        loss = sum(terms.values())
        (loss * gain).backward()
        return {f"Loss/G/{name}": term.detach() for name, term in {**terms, "loss": loss}.items()}

    def _sample_grid(self, batch: Mapping[str, Tensor], cur_nimg: float) -> PixelGrid:
        """Sample patches, or pixels of the whole image; the discriminator needs patches."""
        is_patch = torch.rand([]).item() < self.patches.patch_prob
        needs_patch = self.D_patch is not None and self.patches.discriminates(cur_nimg)
        sample = sample_patches if is_patch or needs_patch else sample_strided
        resolution = self.options.neural_rendering_resolution_initial
        return sample(len(batch["pose"]), self.patches.patch_size, resolution, batch["pose"].device)

    def _sample_style(self, batch: Mapping[str, Tensor], prior_z: Tensor, cur_nimg: float) -> Style:
        """Encode the photos to z, with the losses of the encoder, and replace a share of z by the prior's."""
        # Without an encoder, z is noise that the generator must learn to interpret: as published.
        if self.E is None:
            return Style(prior_z, torch.ones_like(prior_z[:, 0]), {})
        mean, logvar = self.E(batch["image"])
        z = sample_normal(mean, logvar)
        self.E.remember(z)

        # KL divergence, with a weight that grows from 0: at once, it would teach the encoder to say nothing.
        style = self.style
        warmup = min(cur_nimg / (style.kl_warmup_kimg * 1000), 1) if style.kl_warmup_kimg > 0 else 1
        terms = {"kl": style.lambda_kl * warmup * loss_terms.kl_to_normal(mean, logvar).mean()}
        if style.lambda_moments > 0:
            terms["moments"] = style.lambda_moments * self.E.moment_loss(z)
        if style.lambda_color > 0:
            terms["color"] = style.lambda_color * self._color_term(batch, z)

        # Share of the prior.
        has_photo = (torch.rand(len(z)) >= style.prior_prob).to(z)
        z = torch.where(has_photo[:, None] > 0, z, prior_z)
        return Style(z, has_photo, terms)

    def _color_term(self, batch: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """Error between the mean colors of regions and those that a linear probe reads from z (N,z_dim)."""
        # Regions are the classes, or for edges all that is not white.
        image = batch["image"]
        if self.is_seg:
            regions = loss_terms.one_hot(batch["mask"], self.G.semantic_channels).to(image)
        else:
            regions = (image.amin(dim=1, keepdim=True) < WHITE).to(image)

        # At the encoder's resolution, where it is cheaper.
        factor = image.shape[-1] // self.E.resolution
        if factor > 1:
            image = F.avg_pool2d(image, factor)
            regions = F.avg_pool2d(regions, factor)
        colors, pixels = loss_terms.region_means(image, regions)
        error = loss_terms.color_error(self.E.region_colors(z) - colors)  # N,K,3
        return (error * (pixels[..., None] > SMALLEST_REGION)).mean()

    def _depth_target(
        self, batch: Mapping[str, Tensor], grid: PixelGrid, origins: Tensor, directions: Tensor
    ) -> DepthTarget | None:
        """Known depth of the rays N,M,3; None without depth maps."""
        if "target_depth" not in batch:
            return None
        rays = self.G.ray_options()

        # Rays of a white background end nowhere; others on a sphere behind the object.
        if rays.white_back:
            background = torch.full_like(origins[..., 0], float(rays.end))
        else:
            background = far_side(origins, directions, BACKGROUND_RADIUS * rays.box_warp)
        return depth_target(batch["target_depth"], grid, background, rays.end - rays.start)

    def _guided_depths(self, depth: DepthTarget | None, cur_nimg: float) -> Tensor | None:
        """Depths N,M,T of samples about the known surface, early in training; None: sample as in inference.

        Half the samples of two passes, in one. Later the generator must find the surface itself, or it leaves a halo
        that only samples elsewhere would see.
        """
        if depth is None or cur_nimg >= self.patches.guided_kimg * 1000:
            return None
        rays = self.G.ray_options()
        length = rays.end - rays.start
        shape = depth.depth.shape
        like = {"device": depth.depth.device}

        # Evenly spaced, with jitter.
        even = (torch.arange(EVEN_SAMPLES, **like) + torch.rand(*shape, EVEN_SAMPLES, **like)) / EVEN_SAMPLES

        # About the surface; an edge of the object has none, and gets samples about a random depth.
        known = (depth.depth - rays.start) / length
        known = torch.where(depth.is_surface | depth.is_empty, known, torch.rand(shape, **like))
        offsets = torch.tensor(SURFACE_OFFSETS, **like)
        near = known[..., None] + offsets + SURFACE_NOISE * torch.randn(*shape, len(SURFACE_OFFSETS), **like)
        return rays.start + length * torch.cat([even, near], dim=-1)

    # ----------------------------------------------------------------------- terms

    def _raw_terms(
        self, features: Tensor, target: PatchTarget, view_weight: Tensor, photo_weight: Tensor
    ) -> dict[str, Tensor]:
        """Terms of raw image and raw labels; features N,F,h,w, weights N,1,1,1."""
        # Rare classes count more, also in the image.
        pixel_weight = target.pixel_weight(self.class_weights)
        image = features[:, : self.G.img_channels]
        labels = features[:, FEATURES : FEATURES + self.G.semantic_channels]
        weight = pixel_weight * photo_weight
        error = loss_terms.image_error(image, target.image_raw, weight, gradients=target.grid.is_patch)
        terms = {"image_raw": self.options.lambda_l1 * error}

        # Pixels of several classes have a share of each.
        if self.is_seg:
            weight = self.class_weights * view_weight
            terms["labels_raw"] = loss_terms.soft_cross_entropy(labels, target.labels_raw, weight)
        else:
            terms["labels_raw"] = self._edge_term(labels, target.labels_raw, view_weight)
        return terms

    def _final_terms(
        self,
        features: Tensor,
        ws: Tensor,
        target: PatchTarget,
        view_weight: Tensor,
        photo_weight: Tensor,
        cur_nimg: float,
    ) -> dict[str, Tensor]:
        """Terms of the super-resolved patch: image, labels, LPIPS, discriminator.

        Args:
            features: N,F,h,w rendered.
            ws: N,num_ws,w_dim.
            target: the same patch of the target view.
            view_weight, photo_weight: N,1,1,1 weights of the samples, of what does not and of what depends on style.
            cur_nimg: images shown so far.
        """
        image_raw = features[:, : self.G.img_channels]
        labels_raw = features[:, FEATURES : FEATURES + self.G.semantic_channels]
        image = self.G.superresolution.upsample(image_raw, features[:, :FEATURES], ws, "none")
        labels = self.G.superresolution_semantic.upsample(labels_raw, features[:, FEATURES:], ws, "none")

        # Pixels near an inner edge of the patch are left out.
        interior = target.interior
        weight = target.final_pixel_weight(self.class_weights) * interior * photo_weight
        error = loss_terms.image_error(image, target.image, weight, gradients=True)
        terms = {"image": FINAL_IMAGE_WEIGHT * self.options.lambda_l1 * error}
        if self.is_seg:
            weight = self.class_weights * interior * view_weight
            terms["labels"] = loss_terms.soft_cross_entropy(labels, target.labels, weight)
        else:
            terms["labels"] = self._edge_term(labels, target.labels, interior * view_weight)
        if self.options.lambda_lpips > 0:
            distance = self.perceptual(image, target.image).view(-1, 1, 1, 1)
            terms["lpips"] = self.options.lambda_lpips * loss_terms.weighted_mean(distance, photo_weight)

        # Discriminator, conditioned on the real labels.
        if self.D_patch is not None and self.patches.discriminates(cur_nimg):
            pair = PatchPair(image, target.image, target.labels)
            terms |= self._adversarial_terms(pair, photo_weight)
            self._keep(pair, cur_nimg)
        return terms

    def _edge_term(self, edges: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Error of edges N,1,H,W with weights of the samples and pixels, N,1,H,W or broadcastable."""
        return self.options.edge_weight * loss_terms.edge_error(edges, target, weight)

    def _depth_term(self, rendering: WeightedRendering, depth: DepthTarget, view_weight: Tensor) -> Tensor:
        """Distance of the samples to known surfaces, and of empty rays' samples to the background."""
        rays = self.G.ray_options()
        opacity = rendering.weight_sum
        half_length = (rays.end - rays.start) / 2
        distance = loss_terms.depth_distance(rendering.depths, rendering.weights, opacity, depth.depth, half_length)

        # With a white background, empty rays must let all light through.
        if rays.white_back:
            distance = torch.where(depth.is_empty, opacity[..., 0] * half_length, distance)
        # Each kind has its own mean: many empty rays would otherwise outvote a small object, and empty the scene.
        distance = (distance * view_weight[:, :, 0, 0])[:, None, None]  # N,1,1,M
        surface, empty = (x.float()[:, None, None] for x in (depth.is_surface, depth.is_empty))
        surface_term = self.patches.lambda_depth * loss_terms.weighted_mean(distance, surface)
        return surface_term + self.patches.lambda_empty * loss_terms.weighted_mean(distance, empty)

    def _adversarial_terms(self, pair: PatchPair, photo_weight: Tensor) -> dict[str, Tensor]:
        """Adversarial loss, and feature matching of the samples whose real patch has their style (N,1,1,1)."""
        logits, fake_features = self._discriminate(pair.fake, pair.labels)
        terms = {"adversarial": self.patches.lambda_patch_d * loss_terms.logistic_loss_real(logits).mean()}

        # L1 between the discriminator's features of both patches (Wang et al. 2018, section 3.3).
        if self.patches.lambda_feature > 0:
            with torch.no_grad():
                _, real_features = self._discriminate(pair.real, pair.labels)
            distances = [
                loss_terms.weighted_mean((fake - real).abs().mean(dim=(2, 3), keepdim=True), photo_weight)
                for fake, real in zip(fake_features, real_features, strict=True)
            ]
            terms["feature_matching"] = self.patches.lambda_feature * sum(distances) / len(distances)
        return terms

    # ----------------------------------------------------------------------- Greg and D_patch

    def _regularize_density(self, batch: Mapping[str, Tensor], z: Tensor, gain: float) -> dict[str, Tensor]:
        """Greg: density regularization at random points of the samples' scenes."""
        ws = self.G.mapping(z, batch["pose"], batch)
        field = self.G.field(self.G.planes(ws, noise_mode="none"))
        loss = self.density_regularization(field.sigma, len(ws), ws.device)
        (loss * gain).backward()
        return {"Loss/G/density": loss.detach()}

    def _keep(self, pair: PatchPair, cur_nimg: float) -> None:
        """Keep the patches of a microbatch for the discriminator's phases of the same iteration."""
        if cur_nimg != self._pairs_nimg:
            self._pairs.clear()
            self._pairs_nimg = cur_nimg
        self._pairs.append(PatchPair(pair.fake.detach(), pair.real, pair.labels))

    def _next_pair(self) -> PatchPair:
        """Return the patches of the next microbatch; each phase takes those of all microbatches in turn."""
        pair = self._pairs[0]
        self._pairs.rotate(-1)
        return pair

    def _train_discriminator(self, gain: float) -> dict[str, Tensor]:
        """D_patchmain: logistic loss on real and rendered patches."""
        # Both in one call.
        pair = self._next_pair()
        images = torch.cat([pair.real, pair.fake])
        logits, _ = self._discriminate(images, pair.labels.repeat(2, 1, 1, 1))
        real, fake = logits.chunk(2)
        loss = loss_terms.logistic_loss_real(real) + loss_terms.logistic_loss_fake(fake)
        (loss.mean() * gain).backward()
        scores = {"Loss/scores/fake_patch": fake.detach(), "Loss/scores/real_patch": real.detach()}
        return {"Loss/D/loss_patch": loss.detach(), **scores}

    def _regularize_discriminator(self, gain: float) -> dict[str, Tensor]:
        """D_patchreg: R1 with respect to real patches."""
        pair = self._next_pair()
        real = pair.real.detach().requires_grad_(True)
        logits, _ = self._discriminate(real, pair.labels)
        penalty = loss_terms.r1_penalty(logits, [real])
        (self.options.r1_gamma / 2 * penalty.mean() * gain).backward()
        return {"Loss/r1_penalty_patch": penalty.detach()}

    def _discriminate(self, image: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits N,1 and features of patches N,3,H,W joined with label channels N,S,H,W."""
        return self.D_patch.logits_and_features(torch.cat([image, labels], dim=1), None)


class PatchTarget:
    """Pixels of the target view on a grid: raw, and at the final resolution if the grid is a patch.

    Args:
        batch: target_image N,3,R,R and target_mask N,1,R,R.
        grid: raw pixels.
        G: generator.
    Attributes:
        image_raw, labels_raw: N,3,h,w and N,S,h,w, class shares or edges.
        image, labels: the same at the final resolution.
        interior: N,1,H,W, see `PixelGrid.interior`.
    """

    def __init__(self, batch: Mapping[str, Tensor], grid: PixelGrid, G: nn.Module):
        self.grid = grid
        image = batch["target_image"]
        labels = batch["target_mask"]
        self.is_seg = G.data_type == "seg"
        if self.is_seg:
            labels = loss_terms.one_hot(labels, G.semantic_channels).to(image)

        # Raw pixels are averages.
        factor = image.shape[-1] // grid.resolution
        self.image_raw = grid.crop(F.avg_pool2d(image, factor))
        self.labels_raw = grid.crop(F.avg_pool2d(labels, factor))
        if grid.is_patch:
            self.image = grid.crop_scaled(image, factor)
            self.labels = grid.crop_scaled(labels, factor)
            self.interior = grid.interior(factor)

    def pixel_weight(self, class_weights: Tensor) -> Tensor:
        """Weights N,1,h,w of raw pixels by their classes (weights 1,S,1,1); 1 for edges."""
        return self._pixel_weight(self.labels_raw, class_weights)

    def final_pixel_weight(self, class_weights: Tensor) -> Tensor:
        """Weights N,1,H,W of final pixels, as `pixel_weight`."""
        return self._pixel_weight(self.labels, class_weights)

    def _pixel_weight(self, labels: Tensor, class_weights: Tensor) -> Tensor:
        if not self.is_seg:
            return torch.ones_like(labels)
        return (labels * class_weights).sum(dim=1, keepdim=True)
