"""Latent codes: z from seeds or photos, ws of a scene, tri-planes of ws."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from dnnlib.choices import MAX_SEED
from dnnlib.errors import ConfigError
from training.networks.generator import TriPlane
from training.networks.style_encoder import NUM_CODES

# Styles of N scenes: N seeds, or N photos N,3,H,W in [-1, 1] for the style encoder of a network.
Styles = Sequence[int] | Tensor


def check_seed(seed: int) -> int:
    """Return a seed.

    Raises:
        ConfigError: not a whole number from 0 to MAX_SEED.
    """
    if not isinstance(seed, Integral) or not 0 <= seed <= MAX_SEED:
        raise ConfigError("seed", seed, f"a whole number from 0 to {MAX_SEED}")
    return seed


def latent(seed: int, z_dim: int) -> Tensor:
    """Return z (1,z_dim float32) of a seed, the same on every machine.

    Raises:
        ConfigError: not a whole number from 0 to MAX_SEED.
    """
    # Published seeds mean this generator. torch's own gives other numbers on CUDA than on the CPU.
    return torch.from_numpy(np.random.RandomState(check_seed(seed)).randn(1, z_dim).astype(np.float32))


def check_style_encoder(G: TriPlane) -> None:
    """Check that a network has a style encoder, which published ones lack.

    Raises:
        ConfigError: it has none.
    """
    if G.style_encoder is None:
        problem = "this network has no encoder of photos"
        raise ConfigError("style", problem=problem, hint="choose its styles by seeds")


def style_latents(G: TriPlane, styles: Styles) -> Tensor:
    """Return z (N,z_dim, on the device of the generator) of N styles.

    Raises:
        ConfigError: an invalid seed, or photos for a network without a style encoder.
    """
    # Seeds are samples of the prior, or of the codes of training photos where a style encoder has kept them.
    device = next(G.parameters()).device
    if not isinstance(styles, Tensor):
        noise = torch.cat([latent(seed, G.z_dim) for seed in styles]).to(device)
        if G.style_encoder is None:
            return noise
        index = [np.random.RandomState([seed, 1]).randint(NUM_CODES) for seed in styles]
        return G.style_encoder.sample_codes(torch.tensor(index, device=device), noise)

    # The mean of the encoder's distribution: a photo always has the same style.
    check_style_encoder(G)
    mean, _ = G.style_encoder(styles.to(device))
    return mean


def scene_ws(G: TriPlane, encoded: Tensor, pose: Tensor, styles: Styles) -> Tensor:
    """Map encoded label maps and styles to ws (N,num_ws,w_dim), one scene per style, without truncation.

    Args:
        G: the generator.
        encoded: result of `G.encode` for N label maps, or for one that serves all styles.
        pose: N,25 or 1,25 poses to condition on.
        styles: N seeds, or photos N,3,H,W in [-1, 1].
    """
    return latent_ws(G, encoded, pose, style_latents(G, styles))


def latent_ws(G: TriPlane, encoded: Tensor, pose: Tensor, z: Tensor) -> Tensor:
    """Map encoded label maps and z (N,z_dim) to ws (N,num_ws,w_dim); arguments as of `scene_ws`."""
    # The label map is encoded once and shared by all z: the encoder takes longer than the mapping.
    count = len(z)
    return G.mapping(z, pose.expand(count, -1), encoded=encoded.expand(count, *encoded.shape[1:]))


def style_mask(G: TriPlane) -> Tensor:
    """Return which entries of ws decide about style rather than geometry, bool num_ws,w_dim of a scene's ws."""
    # Two backbones: the first half of w_dim is for color, the second for geometry and labels.
    if G.architecture.split:
        mask = torch.zeros(G.num_ws, 2 * G.w_dim, dtype=torch.bool)
        mask[:, : G.w_dim] = True
        return mask

    # One backbone: its first layers decide about geometry, the others about style.
    mask = torch.zeros(G.num_ws, G.w_dim, dtype=torch.bool)
    mask[G.backbone.mapping.geometry_layer :] = True
    return mask


def scene_planes(G: TriPlane, ws: Tensor) -> Tensor:
    """Compute the tri-planes (N,3,C,P,P) of ws (N,num_ws,w_dim) with constant noise.

    Raises:
        ConfigError: the planes are not finite.
    """
    # Finite weights can still overflow, in float16 above all. Waits for the device, once per scene.
    planes = G.planes(ws, noise_mode="const")
    if not planes.isfinite().all():
        problem = "makes scenes that are not finite (NaN or infinity)"
        raise ConfigError("network", problem=problem, hint="try `precision` fp32")
    return planes


def interpolate_ws(keys: Tensor, time: Tensor) -> Tensor:
    """Interpolate ws on straight lines through the seeds and, at the same time, from the first label map to the last.

    Args:
        keys: K,M,num_ws,w_dim of K seeds and M label maps, one or two.
        time: T numbers in [0, 1].
    Returns:
        T,num_ws,w_dim.
    """
    # Interpolate over the seeds, which are evenly spaced in time; at the last moment `before` is the last but one.
    if len(keys) == 1:
        by_map = keys.expand(len(time), -1, -1, -1)
    else:
        position = time * (len(keys) - 1)
        before = position.long().clamp(max=len(keys) - 2)
        by_map = torch.lerp(keys[before], keys[before + 1], (position - before).view(-1, 1, 1, 1))  # T,M,num_ws,w_dim

    # Interpolate over the label maps; with a single one, both ends are the same.
    return torch.lerp(by_map[:, 0], by_map[:, -1], time.view(-1, 1, 1))
