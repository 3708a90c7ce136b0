"""Training loss: the phases of an iteration, each of which accumulates gradients of one network.

Gmain            adversarial loss, reconstruction of the input sample, cross-view consistency
Greg             density regularization
Dmain, Dreg      logistic loss on rendered and real images, R1 on real images
D_semantic...    the same for the discriminator of images joined with label maps

A term whose weight is 0 is not computed. Reported values have their published names ("Loss/G/loss", ...), so that
they can be compared with those of the published code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import ConfigError
from torch_utils.ops.upfirdn2d import setup_filter
from training import loss_terms
from training.density_regularization import DensityRegularization
from training.networks.discriminator import filtered_resizing
from training.networks.layers import FIR
from training.options import LossOptions
from training.perceptual import Perceptual

# By name of the phase: the network that is trained, and whether its main loss and its regularization are computed.
PHASES = {
    network + kind: (network, kind != "reg", kind != "main")
    for network in ("G", "D", "D_semantic")
    for kind in ("main", "reg", "both")
}
SILHOUETTE_WEIGHT = 10  # as published
# Reconstruction terms of Gmain, in the order in which they are added.
GENERATOR_TERMS = ("img_reconstruction", "semantic_reconstruction", "silhouette")


@dataclass(frozen=True)
class Microbatch:
    """Samples of one accumulation step, and the values of all schedules at that time."""

    batch: Mapping[str, Tensor]  # real samples: image N,3,R,R in [-1, 1], pose N,25, mask N,1,R,R (if G is conditional)
    z: Tensor  # N,z_dim latent codes
    random_pose: Tensor  # N,25 poses of other samples of the data set
    gain: float  # factor of every loss
    blur_sigma: float  # blur of discriminator inputs, pixels
    rendering_resolution: int  # r, pixels of raw images

    @property
    def pose(self) -> Tensor:
        """The samples' own poses, N,25."""
        return self.batch["pose"]


class Loss:
    """Gradients of every phase of training.

    Args:
        options: weights and schedules.
        G: generator (`training.networks.generator`).
        D: discriminator of {"image": N,3,R,R, "image_raw": N,3,r,r}.
        D_semantic: discriminator of the same with label channels after the colors, N,3+S,R,R; None for none.
        augment_pipe: augmentation of discriminator inputs (AugmentPipe); None for none.
        perceptual: image distance (`training.perceptual.load_lpips`); needed if lambda_lpips is above 0.
        class_counts: pixels of each class in the data set, S numbers; needed if seg_weight is "auto".
    Raises:
        ConfigError: class weights that do not fit the generator, or a missing image distance.
    """

    def __init__(
        self,
        options: LossOptions,
        G: nn.Module,
        D: nn.Module,
        D_semantic: nn.Module | None = None,
        augment_pipe: nn.Module | None = None,
        perceptual: Perceptual | None = None,
        class_counts: Sequence[int] | None = None,
    ):
        self.options = options
        self.G = G
        self.augment_pipe = augment_pipe
        self.perceptual = perceptual
        self.networks = {"G": G, "D": D}
        if D_semantic is not None:
            self.networks["D_semantic"] = D_semantic
        self.renders_labels = G.architecture.labels
        self.is_seg = G.data_type == "seg"

        # Without one, training would fail at the first reconstruction.
        if perceptual is None and options.lambda_lpips > 0 and G.conditional:
            raise ConfigError("perceptual", None, f"an image distance, as `lambda_lpips` is {options.lambda_lpips:g}")

        # Constants on the device of the networks.
        device = next(G.parameters()).device
        self.class_weights = None
        if self.renders_labels and self.is_seg:
            weights = loss_terms.class_weights(options.seg_weight, G.semantic_channels, class_counts)
            self.class_weights = None if weights is None else torch.tensor(weights, device=device)
        self.resize_filter = setup_filter(FIR, device=device)
        self.density_regularization = DensityRegularization.from_generator(G)

    def accumulate_gradients(
        self,
        phase: str,
        batch: Mapping[str, Tensor],
        gen_z: Tensor,
        gen_c: Tensor,
        gain: float = 1,
        cur_nimg: float = 0,
    ) -> dict[str, Tensor]:
        """Add the gradients of one microbatch to the network that a phase trains; only that network requires gradients.

        Args:
            phase: a key of PHASES.
            batch: real samples: image N,3,R,R in [-1, 1], pose N,25 and, if G is conditional, mask N,1,R,R (class ids,
                or edges as floats from 1, background, to -1, line).
            gen_z: N,z_dim latent codes.
            gen_c: N,25 random poses of the data set.
            gain: factor of the loss.
            cur_nimg: images shown so far.
        Returns:
            Detached values to report by published name, each a scalar or one value per sample.
        Raises:
            ConfigError: edges that are not floats.
            KeyError: unknown phase, or a phase of a missing discriminator.
        """
        # Edges as stored in the data set would give a wrong loss without an error.
        trained, main, regularize = PHASES[phase]
        if not self.is_seg and "mask" in batch and not batch["mask"].is_floating_point():
            raise ConfigError("mask", batch["mask"].dtype, "edges as floats in [-1, 1]")

        # No memory or time for gradients of the networks that this phase does not train.
        for name, network in self.networks.items():
            network.requires_grad_(name == trained)

        # Schedules follow the images shown before this iteration.
        blur_sigma = self.options.blur_sigma(cur_nimg)
        rendering_resolution = self.options.rendering_resolution(cur_nimg)
        microbatch = Microbatch(batch, gen_z, gen_c, gain, blur_sigma, rendering_resolution)

        # R1 and density regularization are skipped if their weight is 0.
        if trained != "G":
            return self._train_discriminator(trained, microbatch, main, regularize and self.options.r1_gamma > 0)
        reports = self._train_generator(microbatch) if main else {}
        if regularize and self.density_regularization.weight > 0:
            self._regularize_density(microbatch)
        return reports

    # ----------------------------------------------------------------------- Gmain

    def _train_generator(self, microbatch: Microbatch) -> dict[str, Tensor]:
        """Gmain: adversarial loss, and reconstruction if the samples are rendered from their own poses."""
        options = self.options

        # Render from the samples' own poses or from random ones. The mapping network always gets their own poses, as
        # pix2pix3D does not apply EG3D's swapping of its input poses.
        own_pose = self._sample_own_pose()
        pose = microbatch.pose if own_pose else microbatch.random_pose
        ws = self.G.mapping(microbatch.z, microbatch.pose, microbatch.batch)  # N,num_ws,w_dim
        planes = self.G.planes(ws)  # N,3,C,P,P
        rendered = self.G.synthesis(ws, pose, microbatch.rendering_resolution, planes=planes)

        # Adversarial loss of one or both discriminators.
        loss = 0
        reports = {}
        for name, weight in (("D", 1.0), ("D_semantic", options.lambda_D_semantic)):
            if weight > 0 and name in self.networks:
                logits = self._logits(name, self._fake_inputs(name, rendered), pose, microbatch)  # N,1
                loss = loss + weight * loss_terms.logistic_loss_real(logits)  # N
                reports |= _scores(f"fake{_suffix(name)}", logits)

        # Reconstruction, which needs an input rendered from its own pose.
        terms = self._reconstruction(rendered, microbatch) if own_pose and self.G.conditional else {}
        for name in GENERATOR_TERMS:
            value = terms.get(name, loss.new_zeros([]))
            loss = loss + value
            reports[f"Loss/G/loss_{name}"] = value.detach()

        # The mean over the samples; terms that are scalars already count for each of them.
        (loss.mean() * microbatch.gain).backward()
        reports["Loss/G/loss"] = loss.detach()

        # Cross-view consistency accumulates its own gradients, so that both graphs are never in memory at once.
        cross_view = torch.zeros([], device=loss.device)
        if options.lambda_cross_view > 0 and self.renders_labels and self.G.conditional:
            cross_view = self._cross_view(microbatch, ws.detach(), planes.detach(), rendered, own_pose)
        reports["Loss/G/loss_cross_view"] = cross_view
        return reports

    def _reconstruction(self, rendered: Mapping[str, Tensor], microbatch: Microbatch) -> dict[str, Tensor]:
        """Compare rendered samples with their inputs: images, label maps, silhouettes.

        Args:
            rendered: image N,3,R,R, image_raw N,3,r,r and, if G renders labels, semantic and semantic_raw.
        Returns:
            Weighted terms by reported name, scalars; with LPIPS the first one has N values.
        """
        # The label map at both sizes; class ids cannot be interpolated.
        label_map = microbatch.batch["mask"]
        size = microbatch.rendering_resolution
        raw_label_map = F.interpolate(label_map.float(), size=(size, size), mode="nearest")  # N,1,r,r

        # Real image and label map by the suffix of the rendered ones.
        targets = {"_raw": (self._raw_image(microbatch), raw_label_map)}
        if not self.options.only_raw_recons:
            targets[""] = (microbatch.batch["image"], label_map)

        # Weighted terms at both resolutions.
        image_terms = []
        label_terms = []
        for suffix, (image, labels) in targets.items():
            image_terms += self._image_terms(rendered[f"image{suffix}"], image)
            if self.renders_labels:
                label_terms += self._label_terms(rendered[f"semantic{suffix}"], labels)

        # Their sums, 0 if there are none.
        zero = torch.zeros([], device=label_map.device)
        terms = {
            "img_reconstruction": sum(image_terms, start=zero),
            "semantic_reconstruction": sum(label_terms, start=zero),
        }

        # Silhouette at rendering resolution, as super-resolution has no opacity.
        if self.options.silhouette_loss:
            terms["silhouette"] = SILHOUETTE_WEIGHT * loss_terms.silhouette(rendered["weight"], raw_label_map)
        return terms

    def _image_terms(self, rendered: Tensor, real: Tensor) -> list[Tensor]:
        """Smooth L1 and LPIPS of images N,3,H,W, weighted: a scalar and N values; terms of weight 0 are left out."""
        options = self.options
        terms = []
        if options.lambda_l1 > 0:
            terms.append(options.lambda_l1 * F.smooth_l1_loss(rendered, real))
        if options.lambda_lpips > 0:
            terms.append(options.lambda_lpips * self.perceptual(rendered, real).flatten())
        return terms

    def _label_terms(self, rendered: Tensor, label_map: Tensor) -> list[Tensor]:
        """Cross-entropy of logits N,S,H,W and class ids N,1,H,W, or weighted smooth L1 of edges N,1,H,W."""
        # Class labels have no weight of their own, as published; their classes can have weights.
        if self.is_seg:
            return [loss_terms.cross_entropy2d(rendered, label_map[:, 0], self.class_weights)]
        if self.options.edge_weight > 0:
            return [self.options.edge_weight * F.smooth_l1_loss(rendered, label_map)]
        return []

    def _cross_view(
        self, microbatch: Microbatch, ws: Tensor, planes: Tensor, rendered: Mapping[str, Tensor], own_pose: bool
    ) -> Tensor:
        """Cross-view consistency: the label map of another view, as input, must give the same scene.

        Args:
            microbatch: the samples.
            ws: N,num_ws,w_dim of the samples, detached.
            planes: N,3,C,P,P of the samples, detached.
            rendered: outputs of Gmain from one of the two poses; those from the other pose are rendered here.
            own_pose: whether Gmain rendered from the samples' own poses rather than from the random ones.
        Returns:
            The weighted loss, a detached scalar; its gradients have been accumulated.
        """
        size = microbatch.rendering_resolution

        # Both views of the scene, without gradients: the target from the own pose, the label map from the other one.
        with torch.no_grad():
            if own_pose:
                own_view = rendered
                other_view = self.G.synthesis(ws, microbatch.random_pose, size, planes=planes, outputs={"semantic"})
            else:
                own_view = self.G.synthesis(ws, microbatch.pose, size, planes=planes, outputs={"semantic_raw"})
                other_view = rendered
            label_map = other_view["semantic"].detach()  # N,S,R,R
            if self.is_seg:
                label_map = label_map.argmax(dim=1, keepdim=True)  # N,1,R,R

        # The scene of this label map, with the same latent codes, from the own pose. Only this view has gradients.
        ws = self.G.mapping(microbatch.z, microbatch.pose, {"mask": label_map, "pose": microbatch.pose})
        again = self.G.synthesis(ws, microbatch.pose, size, outputs={"semantic_raw"})
        difference = F.smooth_l1_loss(again["semantic_raw"], own_view["semantic_raw"].detach())
        loss = self.options.lambda_cross_view * difference
        (loss * microbatch.gain).backward()
        return loss.detach()

    # ----------------------------------------------------------------------- Greg

    def _regularize_density(self, microbatch: Microbatch) -> None:
        """Greg: density regularization at random points of the samples' scenes."""
        # Of new ws, since this phase has its own latent codes.
        ws = self.G.mapping(microbatch.z, microbatch.pose, microbatch.batch)
        field = self.G.field(self.G.planes(ws))  # density at any point
        loss = self.density_regularization(field.sigma, len(ws), ws.device)
        (loss * microbatch.gain).backward()

    # ----------------------------------------------------------------------- D and D_semantic, main and reg

    def _train_discriminator(
        self, name: str, microbatch: Microbatch, main: bool, regularize: bool
    ) -> dict[str, Tensor]:
        """Dmain, Dreg or both, of D or D_semantic: logistic loss on rendered and real samples, R1 on real ones."""
        reports = {}
        suffix = _suffix(name)
        if not main and not regularize:
            return reports

        # Rendered samples. Their backward pass runs before the real samples' graph is built, which saves memory.
        if main:
            fake_loss, scores = self._train_on_fakes(name, microbatch)
            reports |= scores

        # Logits of real samples. As published, R1 differentiates with respect to images before blur and augmentation.
        reals = {}
        for key, image in self._real_inputs(name, microbatch).items():
            reals[key] = image.detach().requires_grad_(regularize)
        logits = self._logits(name, reals, microbatch.pose, microbatch)  # N,1
        reports |= _scores(f"real{suffix}", logits)

        # Main loss and R1 share one backward pass.
        terms = []
        if main:
            real_loss = loss_terms.logistic_loss_real(logits)  # N
            terms.append(real_loss)
            reports[f"Loss/D/loss{suffix}"] = fake_loss + real_loss.detach()
        if regularize:
            penalty = loss_terms.r1_penalty(logits, list(reals.values()))  # N
            weighted_penalty = self.options.r1_gamma / 2 * penalty
            terms.append(weighted_penalty)
            reports[f"Loss/r1_penalty{suffix}"] = penalty.detach()
            reports[f"Loss/D/reg{suffix}"] = weighted_penalty.detach()
        (sum(terms).mean() * microbatch.gain).backward()
        return reports

    def _train_on_fakes(self, name: str, microbatch: Microbatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Accumulate gradients of a discriminator's loss on rendered samples.

        Returns:
            The loss, N values, and the scores to report.
        """
        # Label maps are rendered only for D_semantic.
        outputs = {"image", "image_raw"}
        if name == "D_semantic":
            outputs |= {"semantic", "semantic_raw"}

        # Render without gradients of G. Only here is w_avg updated, the mean of ws that truncation uses.
        pose = microbatch.pose if self._sample_own_pose() else microbatch.random_pose
        with torch.no_grad():
            ws = self.G.mapping(microbatch.z, microbatch.pose, microbatch.batch, update_emas=True)
            rendered = self.G.synthesis(ws, pose, microbatch.rendering_resolution, outputs=outputs)

        logits = self._logits(name, self._fake_inputs(name, rendered), pose, microbatch)
        loss = loss_terms.logistic_loss_fake(logits)  # N
        (loss.mean() * microbatch.gain).backward()
        return loss.detach(), _scores(f"fake{_suffix(name)}", logits)

    # ----------------------------------------------------------------------- discriminator inputs

    def _fake_inputs(self, name: str, rendered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Discriminator inputs for rendered samples. Gradients of D_semantic stop at RGB."""
        if name == "D":
            return {"image": rendered["image"], "image_raw": rendered["image_raw"]}

        # Label maps as channels after the colors: class probabilities, or the edge image.
        inputs = {}
        for suffix in ("", "_raw"):
            labels = rendered[f"semantic{suffix}"]
            if self.is_seg:
                labels = labels.softmax(dim=1)
            inputs[f"image{suffix}"] = torch.cat([rendered[f"image{suffix}"].detach(), labels], dim=1)
        return inputs

    def _real_inputs(self, name: str, microbatch: Microbatch) -> dict[str, Tensor]:
        """Discriminator inputs for real samples."""
        image = microbatch.batch["image"]
        raw = self._raw_image(microbatch)
        if name == "D":
            return {"image": image, "image_raw": raw}

        # Label maps as channels after the colors: one per class, or the edge image. At the raw size, antialiasing makes
        # class channels soft at borders, like the probabilities of rendered samples.
        labels = microbatch.batch["mask"]
        if self.is_seg:
            labels = loss_terms.one_hot(labels, self.G.semantic_channels).to(image)
        raw_labels = self._to_raw(labels, microbatch)
        return {"image": torch.cat([image, labels], dim=1), "image_raw": torch.cat([raw, raw_labels], dim=1)}

    def _raw_image(self, microbatch: Microbatch) -> Tensor:
        """Real images at the rendering resolution, N,3,r,r, blurred: rendered raw images are compared with these."""
        return loss_terms.blur(self._to_raw(microbatch.batch["image"], microbatch), microbatch.blur_sigma)

    def _to_raw(self, image: Tensor, microbatch: Microbatch) -> Tensor:
        size = microbatch.rendering_resolution
        return filtered_resizing(image, size, self.resize_filter, self.options.filter_mode)

    def _logits(self, name: str, inputs: Mapping[str, Tensor], pose: Tensor, microbatch: Microbatch) -> Tensor:
        """Evaluate a discriminator on inputs N,C,R,R (blurred here) and N,C,r,r, both augmented: N,1 logits."""
        image = loss_terms.blur(inputs["image"], microbatch.blur_sigma)
        raw = inputs["image_raw"]
        if self.augment_pipe is not None:
            image, raw = self._augment(image, raw)
        return self.networks[name]({"image": image, "image_raw": raw}, pose)

    def _augment(self, image: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Augment an image N,C,R,R and its raw image N,C,r,r alike; only the first three channels change color."""
        channels = image.shape[1]
        colors = self.G.img_channels

        # Both at the same size, as channels of one image, so that they get the same random transformation.
        enlarged = filtered_resizing(raw, image.shape[-1], self.resize_filter)
        pair = torch.cat([image, enlarged], dim=1)  # N,2C,R,R
        color_channels = [*range(colors), *range(channels, channels + colors)]
        image, enlarged = self.augment_pipe(pair, color_channels=color_channels).chunk(2, dim=1)
        return image, filtered_resizing(enlarged, raw.shape[-1], self.resize_filter)

    def _sample_own_pose(self) -> bool:
        """Choose between the samples' own poses and random ones, once for a microbatch, on the CPU."""
        return torch.rand([]).item() >= self.options.random_c_prob


def _scores(name: str, logits: Tensor) -> dict[str, Tensor]:
    """Logits N,1 and their signs as reported values."""
    return {f"Loss/scores/{name}": logits.detach(), f"Loss/signs/{name}": logits.detach().sign()}


def _suffix(network: str) -> str:
    """Suffix of reported names: "" for D, "_semantic" for D_semantic."""
    return network.removeprefix("D")
