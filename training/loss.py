"""The training loss: every phase of an iteration, as sums of small named terms with weights.

A term whose weight is 0 is not computed. Reported values carry their public names ("Loss/G/loss", ...), so that
curves of several programs can be laid over each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import setup_filter
from training.density_regularization import DensityRegularization
from training.loss_options import LossOptions
from training.networks.dual_discriminator import filtered_resizing
from training.networks.synthesis import FIR
from training.perceptual import Perceptual

PHASES = {
    name + part: (name, part != "reg", part != "main")  # module, main loss, regularization
    for name in ("G", "D", "D_semantic")
    for part in ("main", "reg", "both")
}
SILHOUETTE_WEIGHT = 10
BLUR_SIGMAS = 3  # half width of the blur's filter
# Published weights of CelebAMask-HQ's 19 classes (seg_weight 1; 2 squares them): 1 / sqrt(19 * share of the pixels).
CLASS_WEIGHTS = (
    *(0.42768099, 0.45614868, 1.59952169, 4.38863045, 4.85695198, 4.86439145, 3.53563349, 3.57896961, 3.37838867),
    *(3.66981824, 4.17743386, 3.5624441, 2.78190484, 0.40917425, 2.38560636, 4.65813434, 17.17367367, 1.13303585),
    1.25281865,
)

Terms = Mapping[str, tuple[float, Callable[[], Tensor]]]  # name: weight, value (a scalar or one for each sample)


@dataclass(frozen=True)
class Round:
    """What one round of a phase works on.

    Args:
        batch: real samples: image N,3,R,R in [-1, 1], pose N,25 and, where there are labels, mask N,1,R,R (class ids,
            or edges as floats from +1, background, to -1, line).
        z: N,z_dim. random_pose: N,25 of other samples.
        gain: factor of every loss. sigma: of the blur, pixels. size: of raw images.
    """

    batch: Mapping[str, Tensor]
    z: Tensor
    random_pose: Tensor
    gain: float
    sigma: float
    size: int

    @property
    def pose(self) -> Tensor:
        return self.batch["pose"]


# --------------------------------------------------------------------------- terms


def weighted(terms: Terms) -> Tensor | float:
    """Sum of the terms times their weights; one of weight 0 is not computed."""
    return sum(weight * value() for weight, value in terms.values() if weight > 0)


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


def silhouette(opacity: Tensor, label_map: Tensor) -> Tensor:
    """Mean squared difference of the foreground's opacity (N,1,r,r) and "not class 0" (N,1,r,r class ids)."""
    return F.mse_loss(opacity, (label_map > 0).to(opacity))


def r1_penalty(logits: Tensor, images: Sequence[Tensor]) -> Tensor:
    """N sums of the logits' squared gradients with respect to images (Mescheder et al. 2018); images not seen count 0.

    Only what leads to the images is differentiated: the weights' own gradients are not computed here.
    """
    gradients = torch.autograd.grad(logits.sum(), images, create_graph=True, allow_unused=True)
    return sum(g.square().sum([1, 2, 3]) for g in gradients if g is not None)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Filter N,C,H,H with 2^-(x / sigma)^2 over BLUR_SIGMAS sigma, normalized; what lies outside is 0.

    A product with a banded matrix from either side: on a CPU four to ten times as fast as a filter of 61 taps.
    """
    half = math.floor(BLUR_SIGMAS * sigma)
    if half == 0:
        return image
    places = torch.arange(-half, half + 1, device=image.device)
    total = places.div(sigma).square().neg().exp2().sum()
    pixels = torch.arange(image.shape[-1], device=image.device)
    away = (pixels[:, None] - pixels).abs()  # H,H
    band = away.div(sigma).square().neg().exp2().masked_fill(away > half, 0) / total
    return band @ image @ band


def class_weights(seg_weight: float | str, classes: int, counts: Sequence[int] | None = None) -> list[float] | None:
    """Factors of the classes in the labels' cross-entropy, None for none.

    Args:
        seg_weight: see LossOptions.
        classes: how many there are. counts: pixels of each in the data set, for "auto".
    Raises:
        ValueError: a table for another number of classes, or no counts.
    """
    if seg_weight == 0:
        return None
    if seg_weight == "auto":
        if counts is None or len(counts) != classes or min(counts) < 0 or sum(counts) == 0:
            raise ValueError(f"seg_weight auto: expected the pixels of {classes} classes, got {counts}")
        return [math.sqrt(sum(counts) / (classes * max(n, 1))) for n in counts]
    if classes != len(CLASS_WEIGHTS):
        raise ValueError(
            f"seg_weight {seg_weight:g}: a table of {len(CLASS_WEIGHTS)} classes, but the network has {classes}; "
            "use 0 or auto"
        )
    return [weight**seg_weight for weight in CLASS_WEIGHTS]


def _scores(name: str, logits: Tensor) -> dict[str, Tensor]:
    return {f"Loss/scores/{name}": logits.detach(), f"Loss/signs/{name}": logits.detach().sign()}


# --------------------------------------------------------------------------- phases


class Loss:
    """Gradients of every phase.

    Args:
        G: a generator of `training.networks.generator`. D, D_semantic: discriminators of {"image", "image_raw"}; D_semantic sees
            label channels after the colors.
        augment_pipe: an AugmentPipe that changes what discriminators see, None for none.
        perceptual: distance of images (`training.perceptual.load_lpips`), where its weight is above 0.
        class_counts: pixels of each class in the data set, for seg_weight auto.
    Raises:
        ValueError: options that do not fit the generator, or no distance of images that they need.
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
        self.options, self.G, self.augment_pipe = options, G, augment_pipe
        self.modules = {"G": G, "D": D} | ({} if D_semantic is None else {"D_semantic": D_semantic})
        self.labels, self.seg = G.architecture.labels, G.data_type == "seg"
        if options.silhouette_loss and not (G.architecture.background and self.seg):
            raise ValueError("silhouette_loss: needs the background model (use_bg) and data_type seg")
        if D_semantic is not None and not self.labels:
            raise ValueError("D_semantic: this generator renders no labels to judge; needs render_mask")
        device = next(G.parameters()).device
        weights = (
            class_weights(options.seg_weight, G.semantic_channels, class_counts) if self.labels and self.seg else None
        )
        self.class_weights = None if weights is None else torch.tensor(weights, device=device)
        self.resize_filter = setup_filter(FIR, device=device)
        self.density_regularization = DensityRegularization.of(G)
        self.perceptual = perceptual
        if perceptual is None and options.lambda_lpips > 0 and G.conditional:
            raise ValueError("lambda_lpips: needs a distance of images as perceptual")

    def accumulate_gradients(
        self,
        phase: str,
        batch: Mapping[str, Tensor],
        gen_z: Tensor,
        gen_c: Tensor,
        gain: float = 1,
        cur_nimg: float = 0,
    ) -> dict[str, Tensor]:
        """Add the gradients of one round of a phase to its module, and leave that module alone requiring any.

        Args:
            phase: a key of PHASES.
            batch: real samples, see Round.
            gen_z: N,z_dim. gen_c: N,25 random poses of the data set.
            gain: factor of the loss. cur_nimg: images shown so far.
        Returns:
            Reported values by public name, detached, each a scalar or one for each sample.
        Raises:
            ValueError: unknown phase, or one of a discriminator that is not there; edges as they are stored.
        """
        if phase not in PHASES or PHASES[phase][0] not in self.modules:
            known = [name for name, (module, _, _) in PHASES.items() if module in self.modules]
            raise ValueError(f"phase: expected one of {', '.join(known)}, got {phase!r}")
        if not self.seg and "mask" in batch and not batch["mask"].is_floating_point():
            raise ValueError(f"mask: expected edges as floats in [-1, 1], got {batch['mask'].dtype}")
        trained, main, regularize = PHASES[phase]
        for name, module in self.modules.items():
            module.requires_grad_(name == trained)
        o = self.options
        r = Round(batch, gen_z, gen_c, gain, o.blur_sigma(cur_nimg), o.rendering_resolution(cur_nimg))
        if trained != "G":
            return self._discriminator(trained, r, main, regularize and o.r1_gamma > 0)
        reports = self._generator(r) if main else {}
        if regularize and self.density_regularization.weight > 0:
            self._density(r)
        return reports

    # ----------------------------------------------------------------------- generator

    def _generator(self, r: Round) -> dict[str, Tensor]:
        """Fool the discriminators; where the sample's own pose was rendered, reconstruct the sample."""
        o, own_pose = self.options, self._draws_own_pose()
        pose = r.pose if own_pose else r.random_pose
        ws = self.G.mapping(r.z, r.pose, r.batch)
        planes = self.G.planes(ws)
        out = self.G.synthesis(ws, pose, r.size, planes=planes)
        judged = {"D": 1.0, "D_semantic": o.lambda_D_semantic}
        logits = {
            name: self._logits(name, self._fakes(name, out), pose, r)
            for name, weight in judged.items()
            if weight > 0 and name in self.modules
        }
        loss = sum(judged[name] * F.softplus(-value[:, 0]) for name, value in logits.items())  # N
        terms = self._reconstruction(out, r) if own_pose and self.G.conditional else {}
        reports = {k: v for name, value in logits.items() for k, v in _scores(f"fake{_suffix(name)}", value).items()}
        for name in ("img_reconstruction", "semantic_reconstruction", "silhouette"):
            part = torch.as_tensor(weighted(terms.get(name, {}))).to(loss)
            loss = loss + part
            reports[f"Loss/G/loss_{name}"] = part.detach()
        (loss.mean() * r.gain).backward()
        reports["Loss/G/loss"] = loss.detach()
        reports["Loss/G/loss_cross_view"] = torch.zeros([], device=loss.device)
        if o.lambda_cross_view > 0 and self.labels and self.G.conditional:
            reports["Loss/G/loss_cross_view"] = self._cross_view(r, ws.detach(), planes.detach(), out, own_pose)
        return reports

    def _reconstruction(self, out: Mapping[str, Tensor], r: Round) -> dict[str, Terms]:
        """Terms that compare what was rendered with the sample it was made from, by reported name."""
        o, image, mask = self.options, r.batch["image"], r.batch["mask"]
        raw_mask = F.interpolate(mask.float(), size=(r.size, r.size), mode="nearest")
        pairs = {"image_raw": (cache(lambda: self._raw_image(r)), raw_mask)}
        if not o.only_raw_recons:
            pairs["image"] = (lambda: image, mask)
        images, labels = {}, {}
        for name, (real, label_map) in pairs.items():
            images |= self._image_terms(name, out[name], real)
            if self.labels:
                label = name.replace("image", "semantic")
                labels |= self._label_term(label, out[label], label_map)
        outline = {"opacity": (SILHOUETTE_WEIGHT, lambda: silhouette(out["weight"], raw_mask))}
        return {
            "img_reconstruction": images,
            "semantic_reconstruction": labels,
            "silhouette": outline if o.silhouette_loss else {},
        }

    def _image_terms(self, name: str, fake: Tensor, real: Callable[[], Tensor]) -> Terms:
        return {
            f"{name} l1": (self.options.lambda_l1, lambda: F.smooth_l1_loss(fake, real())),
            f"{name} lpips": (self.options.lambda_lpips, lambda: self.perceptual(fake, real()).flatten()),
        }

    def _label_term(self, name: str, rendered: Tensor, label_map: Tensor) -> Terms:
        if self.seg:
            return {name: (1, lambda: cross_entropy2d(rendered, label_map[:, 0], self.class_weights))}
        return {name: (self.options.edge_weight, lambda: F.smooth_l1_loss(rendered, label_map))}

    def _cross_view(
        self, r: Round, ws: Tensor, planes: Tensor, out: Mapping[str, Tensor], own_pose: bool
    ) -> dict[str, Tensor]:
        """The label map that another view of the scene shows must, as input, give the same scene.

        One of the two views is what `_generator` has rendered already (`out`); the other one is rendered from the
        same planes.
        """
        with torch.no_grad():
            pose, wanted = (r.random_pose, {"semantic"}) if own_pose else (r.pose, {"semantic_raw"})
            missing = self.G.synthesis(ws, pose, r.size, planes=planes, outputs=wanted)
            own, other = (out, missing) if own_pose else (missing, out)
            label_map = other["semantic"].argmax(dim=1, keepdim=True) if self.seg else other["semantic"].detach()
        ws = self.G.mapping(r.z, r.pose, {"mask": label_map, "pose": r.pose})
        again = self.G.synthesis(ws, r.pose, r.size, outputs={"semantic_raw"})
        difference = F.smooth_l1_loss(again["semantic_raw"], own["semantic_raw"].detach())
        loss = self.options.lambda_cross_view * difference
        (loss * r.gain).backward()
        return loss.detach()

    def _density(self, r: Round) -> None:
        ws = self.G.mapping(r.z, r.pose, r.batch)
        field = self.G.field(self.G.planes(ws))
        (self.density_regularization(field.sigma, len(ws), ws.device) * r.gain).backward()

    # ----------------------------------------------------------------------- discriminators

    def _discriminator(self, name: str, r: Round, main: bool, regularize: bool) -> dict[str, Tensor]:
        """Tell fakes from reals; R1 on the reals. `name` is D or D_semantic."""
        reports, suffix = {}, _suffix(name)
        if not main and not regularize:
            return reports
        if main:
            fake_loss, scores = self._judge_fakes(name, r)
            reports |= scores
        reals = {k: v.detach().requires_grad_(regularize) for k, v in self._reals(name, r).items()}
        logits = self._logits(name, reals, r.pose, r)
        reports |= _scores(f"real{suffix}", logits)
        losses = []
        if main:
            losses.append(F.softplus(-logits[:, 0]))  # N
            reports[f"Loss/D/loss{suffix}"] = fake_loss + losses[0].detach()
        if regularize:
            penalty = r1_penalty(logits, list(reals.values()))  # N
            losses.append(self.options.r1_gamma / 2 * penalty)
            reports[f"Loss/r1_penalty{suffix}"] = penalty.detach()
            reports[f"Loss/D/reg{suffix}"] = losses[-1].detach()
        (sum(losses).mean() * r.gain).backward()
        return reports

    def _judge_fakes(self, name: str, r: Round) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the fakes' half of a discriminator's loss: its N values, and the scores to report."""
        pose = r.pose if self._draws_own_pose() else r.random_pose
        with torch.no_grad():
            ws = self.G.mapping(r.z, r.pose, r.batch, update_emas=True)
            judged = {"image", "image_raw", *(["semantic", "semantic_raw"] if name == "D_semantic" else [])}
            out = self.G.synthesis(ws, pose, r.size, outputs=judged)
        logits = self._logits(name, self._fakes(name, out), pose, r)
        loss = F.softplus(logits[:, 0])
        (loss.mean() * r.gain).backward()
        return loss.detach(), _scores(f"fake{_suffix(name)}", logits)

    def _logits(self, name: str, images: Mapping[str, Tensor], pose: Tensor, r: Round) -> Tensor:
        """N,1 of a discriminator for a final image, which is blurred, and a raw one, which is as it should be."""
        image, raw = blur(images["image"], r.sigma), images["image_raw"]
        if self.augment_pipe is not None:
            image, raw = self._augment(image, raw)
        return self.modules[name]({"image": image, "image_raw": raw}, pose)

    def _augment(self, image: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Both images changed alike; label channels, which follow the colors, keep their values."""
        size, first_raw, colors = raw.shape[-1], image.shape[1], self.G.img_channels
        pair = torch.cat([image, filtered_resizing(raw, image.shape[-1], self.resize_filter)], dim=1)
        color_channels = [*range(colors), *range(first_raw, first_raw + colors)]
        image, raw = self.augment_pipe(pair, color_channels=color_channels).chunk(2, dim=1)
        return image, filtered_resizing(raw, size, self.resize_filter)

    def _fakes(self, name: str, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a discriminator is given of a rendered pair; D_semantic's judgment does not reach the colors."""
        if name == "D":
            return {k: out[k] for k in ("image", "image_raw")}
        labels = {k: out[k].softmax(dim=1) if self.seg else out[k] for k in ("semantic", "semantic_raw")}
        return {
            "image": torch.cat([out["image"].detach(), labels["semantic"]], dim=1),
            "image_raw": torch.cat([out["image_raw"].detach(), labels["semantic_raw"]], dim=1),
        }

    def _reals(self, name: str, r: Round) -> dict[str, Tensor]:
        """The same of a real pair."""
        image, raw = r.batch["image"], self._raw_image(r)
        if name == "D":
            return {"image": image, "image_raw": raw}
        labels = r.batch["mask"]
        if self.seg:
            labels = F.one_hot(labels[:, 0].long(), self.G.semantic_channels).permute(0, 3, 1, 2).to(image)
        return {
            "image": torch.cat([image, labels], dim=1),
            "image_raw": torch.cat([raw, self._to_raw(labels, r)], dim=1),
        }

    def _raw_image(self, r: Round) -> Tensor:
        return blur(self._to_raw(r.batch["image"], r), r.sigma)

    def _to_raw(self, image: Tensor, r: Round) -> Tensor:
        return filtered_resizing(image, r.size, self.resize_filter, self.options.filter_mode)

    def _draws_own_pose(self) -> bool:
        """Drawn on the CPU, once for all samples of a round."""
        return torch.rand([]).item() >= self.options.random_c_prob


def _suffix(name: str) -> str:
    """Of reported values of D and D_semantic."""
    return name.removeprefix("D")
