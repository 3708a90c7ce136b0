"""What a seed stands for."""

import numpy as np
import torch
from torch import Tensor


def latent(seed: int, z_dim: int) -> Tensor:
    """1,z_dim float32: the z that a seed stands for, on every machine."""
    return torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim).astype(np.float32))
