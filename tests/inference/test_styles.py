"""Styles of scenes: seeds and photos, and photos in every form that callers have."""

import io

import numpy as np
import pytest
import torch
from metric_data import tiny_network
from paths import ROOT
from PIL import Image

from inference import Scene, load_generator
from inference.inputs import decode_photo, to_label_map, to_photo
from inference.latents import latent, scene_ws, style_latents

CAT = ROOT / "applications" / "assets" / "toy_cat.png"


@pytest.fixture(scope="module")
def G(tmp_path_factory):
    return load_generator(tiny_network(tmp_path_factory.mktemp("network") / "cats.pt", style_encoder=True), "cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (12, 12, 3), dtype=np.uint8)


def test_every_form_of_a_photo_gives_the_same_tensor(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    expected = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    forms = [tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(pixels), pixels, pixels.astype(int)]
    for form in [*forms, expected, expected[0]]:
        assert torch.equal(to_photo(form), expected), type(form)
    assert torch.equal(decode_photo((tmp_path / "photo.png").read_bytes()), expected)


@pytest.mark.parametrize(("width", "height"), [(12, 7), (7, 12), (8, 4), (1, 1)])
def test_photos_are_cropped_to_the_largest_square_about_their_center(width, height):
    columns = torch.arange(width).expand(height, width)
    rows = torch.arange(height)[:, None].expand(height, width)
    photo = to_photo(torch.stack([columns, rows, rows]) / 100)
    side = min(width, height)
    assert photo.shape == (1, 3, side, side)
    xs, ys = photo[0, 0, 0] * 100, photo[0, 1, :, 0] * 100
    for values, size in [(xs, width), (ys, height)]:
        assert abs(values.mean().item() - (size - 1) / 2) <= 0.5
        assert values.diff().allclose(torch.ones(side - 1))


def test_transparent_pixels_of_a_photo_are_white():
    photo = to_photo(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    assert (photo == 1).all()


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.full((8, 8, 3), 256), "style: got values from 256 to 256, expected whole numbers from 0 to 255"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"style: got ndarray of uint8 \(1, 3, 8, 8\), expected a path, an image"),
        (Image.new("CMYK", (8, 8)), "style: cannot write mode CMYK"),
        (torch.zeros(2, 3, 8, 8), r"style: got 'torch.float32 \(2, 3, 8, 8\)', expected 3,H,W or 1,3,H,W"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "style: got 'torch.uint8"),
        (torch.zeros(3, 0, 8), "style: got"),
        (torch.full((3, 8, 8), 2.0), "style: got '2 to 2', expected -1 to 1"),
        (torch.full((3, 8, 8), torch.nan), "style: got 'nan to nan', expected -1 to 1"),
        (None, "style: got NoneType"),
    ],
)
def test_what_is_no_photo_is_rejected(photo, message):
    with pytest.raises(ValueError, match=message):
        to_photo(photo)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"photo\.png: not a PNG or JPEG image"):
        to_photo(tmp_path / "photo.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        to_photo(tmp_path / "nowhere.png")


def test_the_z_of_a_photo_is_the_mean_of_the_encoder(G, pixels):
    photo = to_photo(pixels)
    mean, _ = G.style_encoder(photo)
    assert torch.equal(style_latents(G, photo), mean)


def test_seeds_stand_for_codes_of_training_photos_and_always_for_the_same(G):
    z = style_latents(G, list(range(50)))
    distance = torch.cdist(z, G.style_encoder.codes)
    assert (distance.amin(1) < distance.median(1).values).all()
    assert torch.equal(style_latents(G, [3, 4]), z[3:5])
    assert len(z.unique(dim=0)) == 50

    # Without a style encoder they are samples of the prior, as published.
    E = G.style_encoder
    G.attach_style_encoder(None)
    assert torch.equal(style_latents(G, [3, 4]), torch.cat([latent(3, G.z_dim), latent(4, G.z_dim)]))
    G.attach_style_encoder(E)


@torch.inference_mode()
def test_a_scene_has_the_style_of_its_photo(G, pixels):
    scene = Scene.from_label_map(G, CAT, style=pixels)
    z = G.style_encoder(to_photo(pixels))[0]
    by_hand = G.mapping(z, scene.pose_at(0, 0), {"mask": to_label_map(CAT, G)})
    assert torch.equal(scene.ws, by_hand)
    assert torch.equal(Scene.from_label_map(G, CAT, seed=5, style=pixels).ws, scene.ws)
    for other in ({}, {"seed": 1}, {"style": 255 - pixels}):
        assert not torch.equal(Scene.from_label_map(G, CAT, **other).ws, scene.ws)


def test_seeds_and_photos_can_be_mixed(G, pixels):
    first, second, third = Scene.from_styles(G, CAT, [1, pixels, np.int64(2)])
    assert torch.equal(first.ws, Scene.from_label_map(G, CAT, seed=1).ws)
    assert torch.equal(second.ws, Scene.from_label_map(G, CAT, style=pixels).ws)
    assert torch.equal(third.ws, Scene.from_label_map(G, CAT, seed=2).ws)


@torch.inference_mode()
def test_a_batch_of_photos_is_the_photos_one_by_one(G, pixels):
    photos = torch.cat([to_photo(pixels), to_photo(255 - pixels)])
    label_map = torch.zeros(2, 1, 128, 128, dtype=torch.long)
    pose = Scene(G, torch.zeros(1), "seg2cat").pose_at(0, 0)
    encoded = G.encode({"mask": label_map})
    together = scene_ws(G, encoded, pose, photos)
    alone = torch.cat([scene_ws(G, encoded[:1], pose, photo) for photo in photos.split(1)])
    assert torch.allclose(together, alone, atol=1e-5)  # sums in another order


def test_a_network_without_a_style_encoder_names_seeds(pixels, tmp_path):
    G = load_generator(tiny_network(tmp_path / "plain.pt"), "cpu")
    with pytest.raises(ValueError, match="style: this network has no encoder of photos; choose its styles by seeds"):
        Scene.from_label_map(G, CAT, style=pixels)


def test_a_text_is_no_seed_even_though_it_could_be_the_path_of_a_photo(G):
    with pytest.raises(ValueError, match="seed: got '1', expected a whole number"):
        next(Scene.from_seeds(G, CAT, ["1"]))


def test_jpeg_photos_are_read(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 0, 0)).save(file, "jpeg")
    assert decode_photo(file.getvalue()).shape == (1, 3, 10, 10)
