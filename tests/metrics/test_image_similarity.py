"""PSNR and SSIM against known values and scikit-image."""

import pytest
import torch

from metrics.image_similarity import MAX_PSNR, psnr, ssim


def images(seed):
    return torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_have_the_largest_psnr_and_ssim():
    assert psnr(images(0), images(0)).tolist() == [MAX_PSNR] * 2
    assert torch.allclose(ssim(images(0), images(0)), torch.ones(2, dtype=torch.float64))


def test_psnr_of_a_constant_error():
    assert psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)).item() == pytest.approx(20)  # 4 / 0.04


def test_ssim_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    a = images(0)
    b = (a + 0.3 * images(1)).clamp(-1, 1)
    for ours, x, y in zip(ssim(a, b), a, b, strict=True):
        _, full = metrics.structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=2.0, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        assert ours.item() == pytest.approx(full[:, 5:-5, 5:-5].mean(), rel=1e-6)
