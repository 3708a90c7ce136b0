"""Style encoder: photo to a distribution of z."""

import pytest
import torch
from torch.testing import assert_close

from training.networks import registry
from training.networks.style_encoder import LOGVAR_RANGE, NUM_CODES, StyleEncoder, sample_normal
from training.weights.record import module_from_record, record_from_module


def test_style_encoder_is_built_by_name_and_takes_photos_of_any_size():
    E = registry.construct("StyleEncoder", {"z_dim": 5, "resolution": 32, "regions": 2, "width": 4})
    for size in (32, 128, 100):
        mean, logvar = E(torch.rand(2, 3, size, size))
        assert mean.shape == logvar.shape == (2, 5)
    assert E.region_colors(mean).shape == (2, 2, 3)


def test_style_encoder_does_not_depend_on_the_resolution_of_a_photo():
    E = StyleEncoder(5, resolution=32, width=4)
    photo = torch.rand(1, 3, 32, 32)
    larger = photo.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert_close(E(larger)[0], E(photo)[0])


def test_log_variance_is_bounded():
    E = StyleEncoder(5, resolution=32, width=4)
    torch.nn.init.constant_(E.out.bias, 100.0)
    assert (E(torch.rand(1, 3, 32, 32))[1] == LOGVAR_RANGE[1]).all()


@pytest.mark.parametrize("resolution", [8, 40])
def test_resolutions_that_cannot_be_halved_four_times_are_rejected(resolution):
    with pytest.raises(ValueError, match=f"resolution: expected a multiple of 16, got {resolution}"):
        StyleEncoder(5, resolution=resolution)


def test_samples_have_the_given_mean_and_variance():
    torch.manual_seed(0)
    z = sample_normal(torch.full((20000, 1), 2.0), torch.full((20000, 1), 2 * 0.5**2).log())
    assert abs(z.mean() - 2) < 0.02
    assert abs(z.var() - 0.5) < 0.02


def test_moment_loss_moves_codes_of_all_photos_to_the_prior():
    torch.manual_seed(0)
    E = StyleEncoder(3, resolution=16, width=2)
    codes = torch.randn(256, 3) @ torch.tensor([[3.0, 0, 0], [2.0, 0.1, 0], [0, 0, 1.0]]) + torch.tensor([4.0, 0, 0])
    codes.requires_grad_(True)
    optimizer = torch.optim.SGD([codes], lr=2.0)
    for _ in range(4000):
        batch = codes[torch.randint(256, (16,))]
        optimizer.zero_grad()
        (E.moment_loss(batch)).backward()
        optimizer.step()
    codes = codes.detach()
    assert codes.mean(dim=0).abs().max() < 0.3
    assert_close(torch.cov(codes.T), torch.eye(3), atol=0.4, rtol=0)


def test_seeds_sample_the_codes_of_the_latest_photos():
    # Codes on a ring, where the normal prior has its largest density in the middle.
    torch.manual_seed(0)
    E = StyleEncoder(2, resolution=16, width=2)
    angle = 2 * torch.pi * torch.rand(NUM_CODES, 1)
    for z in (2 * torch.cat([angle.cos(), angle.sin()], dim=1)).split(7):
        E.remember(z)
    samples = E.sample_codes(torch.randint(NUM_CODES, (5000,)), torch.randn(5000, 2))
    radius = samples.norm(dim=1)
    assert radius.quantile(0.01) > 1
    assert radius.mean() == pytest.approx(2, abs=0.1)

    # The first codes have been replaced.
    E.remember(torch.zeros(NUM_CODES, 2))
    assert (E.codes == 0).all()


def test_weights_of_older_versions_have_no_codes_and_seeds_sample_the_prior():
    torch.manual_seed(0)
    E = StyleEncoder(2, resolution=16, width=2)
    record = record_from_module(registry.construct("StyleEncoder", {"z_dim": 2, "resolution": 16, "width": 2}))
    del record.state["codes"]
    loaded = module_from_record(record)
    assert torch.equal(loaded.codes, E.codes)
    assert torch.equal(loaded.out.weight, record.state["out.weight"])
    assert "codes" not in record.state


def test_before_training_seeds_sample_the_prior():
    torch.manual_seed(0)
    E = StyleEncoder(2, resolution=16, width=2)
    samples = E.sample_codes(torch.randint(NUM_CODES, (5000,)), torch.randn(5000, 2))
    assert_close(torch.cov(samples.T), torch.eye(2), atol=0.25, rtol=0)
