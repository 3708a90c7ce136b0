"""Style encoder: photo to a distribution over the latent z (cVAE-GAN of BicycleGAN, Zhu et al. 2017, section 3.2)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Widths of the convolutions relative to the first one; each halves the resolution.
WIDTHS = (1, 2, 3, 4)
HIDDEN_WIDTH = 256
LEAKY_SLOPE = 0.2

# Log-variance of z: at the start small, so that reconstruction does not drown in noise; bounded, so that exp is finite.
INITIAL_LOGVAR = -2.0
LOGVAR_RANGE = (-8.0, 3.0)

# Decay per microbatch of the moving average of the moments of z over all photos.
MOMENTS_DECAY = 0.995

# Codes of the latest photos that are kept for seeds.
NUM_CODES = 512
# Noise added to such a code, relative to the standard deviation of all of them.
CODE_NOISE = 0.25


class StyleEncoder(nn.Module):
    """Encoder of a photo: mean and log-variance of a normal distribution over z.

    Args:
        z_dim: size of z.
        resolution: pixels to which photos are averaged, a multiple of 16.
        regions: number of regions whose mean colors are predicted from z in training, see `region_colors`.
        width: channels of the first convolution.
    Raises:
        ValueError: a resolution that four convolutions cannot halve.
    """

    def __init__(self, z_dim: int, resolution: int = 64, regions: int = 1, width: int = 32):
        super().__init__()
        if resolution < 16 or resolution % 16:
            raise ValueError(f"resolution: expected a multiple of 16, got {resolution}")
        self.z_dim = z_dim
        self.resolution = resolution
        self.regions = regions

        # Convolutions to 1/16 of the resolution, then two fully connected layers.
        widths = [3, *(width * factor for factor in WIDTHS)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(widths))
        self.hidden = nn.Linear(widths[-1] * (resolution // 16) ** 2, HIDDEN_WIDTH)
        self.out = nn.Linear(HIDDEN_WIDTH, 2 * z_dim)

        # At first every photo has nearly the same distribution.
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        nn.init.constant_(self.out.bias[z_dim:], INITIAL_LOGVAR)

        # Moments of z over all photos: moving averages of z and of its products.
        self.register_buffer("z_mean", torch.zeros(z_dim))
        self.register_buffer("z_products", torch.eye(z_dim))

        # Codes of the latest photos, until then samples of the prior; their generator leaves torch's own untouched.
        self.register_buffer("codes", torch.zeros(NUM_CODES, z_dim))
        nn.init.normal_(self.codes, generator=torch.Generator().manual_seed(0))

        # Linear probe from z to the mean colors of regions; used in training only.
        self.colors = nn.Linear(z_dim, 3 * regions)

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a photo.

        Args:
            photo: N,3,H,W in [-1, 1], any size.
        Returns:
            Mean and log-variance, each N,z_dim.
        """
        # Averaged, as colors and patterns do not need the full resolution.
        x = F.interpolate(photo.float(), (self.resolution, self.resolution), mode="area")
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE)
        x = F.leaky_relu(self.hidden(x.flatten(1)), LEAKY_SLOPE)
        mean, logvar = self.out(x).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def moment_loss(self, z: Tensor) -> Tensor:
        """Compare mean and covariance of z over all photos with those of the prior, and update both averages.

        KL bounds what each z says, but leaves their distribution over the photos free: with a small weight it becomes
        narrow and off center, and z from the prior gives colors of no photo. In the spirit of DIP-VAE (Kumar et al.
        2018), but with moving averages, as a microbatch has too few samples.

        Args:
            z: N,z_dim sampled for N photos.
        Returns:
            Scalar whose gradient shrinks z along directions of too large variance and extends it along others. Its
            value means little.
        """
        with torch.no_grad():
            self.z_mean.lerp_(z.mean(dim=0), 1 - MOMENTS_DECAY)
            self.z_products.lerp_(z.T @ z / len(z), 1 - MOMENTS_DECAY)
        excess = self.z_products - torch.eye(self.z_dim, device=z.device)
        return ((z @ excess * z).sum(dim=1) / 2 + z @ self.z_mean).mean()

    @torch.no_grad()
    def remember(self, z: Tensor) -> None:
        """Keep the codes N,z_dim of N photos in place of the oldest ones."""
        self.codes.copy_(torch.cat([z, self.codes])[:NUM_CODES])

    def sample_codes(self, index: Tensor, noise: Tensor) -> Tensor:
        """Sample from the distribution of z over all photos (aggregate posterior, Tomczak and Welling 2018).

        The codes of photos fill the normal prior unevenly: the colors of cars lie on a ring, and most samples of the
        prior lie inside it, where colors are dull.

        Args:
            index: N of codes, below NUM_CODES.
            noise: N,z_dim standard normal.
        Returns:
            N,z_dim.
        """
        return self.codes[index] + CODE_NOISE * self.codes.std(dim=0) * noise

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Weights of older versions have no codes: samples of the prior stay.
        state_dict.setdefault(f"{prefix}codes", self.codes)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def region_colors(self, z: Tensor) -> Tensor:
        """Predict the mean colors N,regions,3 in [-1, 1] of a photo's regions from z (N,z_dim).

        A loss on them keeps the color of small regions, such as eyes, in z.
        """
        return self.colors(z).unflatten(1, (self.regions, 3))


def sample_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Sample N,z_dim from the normal distribution of mean and log-variance N,z_dim (reparameterized)."""
    return mean + torch.randn_like(mean) * (logvar / 2).exp()
