"""Loading generators: device, precision, detected configuration, rejected files."""

import warnings

import pytest
import torch
from paths import ROOT

from camera_utils import CAMERAS
from inference import load_generator
from inference.generator import config_of
from inference.inputs import to_pose
from training.networks.configs import CONFIGS, RAW_RESOLUTION, GeneratorOptions
from training.networks.registry import construct
from training.weights.snapshot import save_snapshot

TINY = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}


def generator(camera, **options):
    options = GeneratorOptions(camera, 128, **options, **TINY)
    return construct(options.class_name, options.kwargs())


@pytest.mark.parametrize("cfg", CONFIGS)
def test_published_configurations_are_detected_from_the_weights(cfg, untrained):
    with pytest.warns(UserWarning, match="untrained"):
        G = load_generator(untrained(cfg), "cpu")
    assert config_of(G) == cfg
    assert G.neural_rendering_resolution == RAW_RESOLUTION[cfg]
    assert next(G.parameters()).device.type == "cpu" and not G.training


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"camera": "afhq", "semantic_channels": 9}, "seg2cat"),
        ({"camera": "afhq", "semantic_channels": 19}, "seg2cat"),  # the cameras decide, not the number of classes
        ({"camera": "ffhq", "semantic_channels": 6}, "seg2face"),
        ({"camera": "celeba", "data_type": "edge"}, "celeba"),
        ({"camera": "shapenet", "semantic_channels": 3}, "shapenet"),
    ],
)
def test_other_classes_fall_back_to_the_preset_of_the_cameras(options, expected):
    G = generator(**options)
    assert config_of(G) == expected
    pose = to_pose(None, G, expected)
    assert pose[0, 11] == pytest.approx(CAMERAS[expected].radius)


def test_cameras_near_a_preset_use_it_and_others_are_rejected():
    G = generator("shapenet", data_type="edge")
    G.rendering_kwargs["avg_camera_radius"] = 1.9
    assert config_of(G) == "edge2car"
    del G.rendering_kwargs["avg_camera_radius"], G.rendering_kwargs["avg_camera_pivot"]
    assert config_of(G) in ("edge2car", "edge2cat")
    G.rendering_kwargs["avg_camera_radius"] = 5
    with pytest.raises(ValueError, match=r"network: its cameras are at 5, expected .* about 1.7 or 2.7"):
        config_of(G)


def test_a_cfg_that_contradicts_the_weights_is_rejected(tmp_path):
    save_snapshot(tmp_path / "cars.pt", {"G_ema": generator("shapenet", data_type="edge")})
    assert config_of(load_generator(tmp_path / "cars.pt", cfg="edge2car")) == "edge2car"
    with pytest.raises(ValueError, match=r"cfg: got 'edge2cat', expected edge2car; .*takes edges.* distance of 1.7"):
        load_generator(tmp_path / "cars.pt", cfg="edge2cat")


def test_own_classes_are_accepted_with_the_cfg_of_their_cameras_only(tmp_path):
    save_snapshot(tmp_path / "own.pt", {"G_ema": generator("afhq", semantic_channels=9)})
    load_generator(tmp_path / "own.pt", cfg="seg2cat")
    with pytest.raises(ValueError, match=r"cfg: got 'seg2face', expected seg2cat; .*takes 9 classes"):
        load_generator(tmp_path / "own.pt", cfg="seg2face")


def test_trained_weights_load_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        G = load_generator(ROOT / "checkpoints" / "toy_edge2car.safetensors")
    assert config_of(G) == "edge2car"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device: got 'cuda:99', expected one of"),
        ({"device": torch.device("cuda:99")}, "device: got 'cuda:99', expected one of"),
        ({"precision": "fp8"}, "precision: got 'fp8', expected auto, fp32, fp16, bf16"),
        ({"cfg": "seg2dog"}, "cfg: got 'seg2dog', expected edge2car"),
    ],
)
def test_unavailable_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        load_generator(ROOT / "checkpoints" / "toy_edge2car.safetensors", **options)


def test_a_network_that_is_no_path_is_a_type_error():
    with pytest.raises(TypeError, match="PathLike"):
        load_generator(None)
