"""Videos: files read back, memory stays bounded, no incomplete file is left; views equal `G.synthesis`."""

import math
import sys
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from camera_utils import CAMERAS, path_poses
from inference.video import check_video_format, gif_delay, open_video, render_views, views_at_once
from training.data.label_maps import PALETTE
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct

FORMATS = ("gif", "mp4")
SIDE = 32


def needs(name):
    if name == "mp4":
        pytest.importorskip("av", reason="mp4 needs PyAV")


def read(path):
    """Frames H,W,3 of a video, by its suffix."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    import av

    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def colored(number, height=SIDE, width=SIDE):
    """A frame of one palette color, another one for each number."""
    return np.broadcast_to(PALETTE[number % len(PALETTE)], (height, width, 3)).copy()


def gradient(number=0):
    """A frame of 1024 colors."""
    steps = np.linspace(0, 255, SIDE).astype(np.uint8)
    red, green = np.meshgrid(steps, steps)
    return np.stack([red, green, np.full_like(red, 10 * number)], axis=2)


def write(path, frames, fps=50):
    with open_video(path, fps) as append:
        for frame in frames:
            append(frame)
    return path


# --------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", FORMATS)
def test_a_video_reads_back_with_its_frames_in_order_and_their_colors(name, tmp_path):
    needs(name)
    path = write(tmp_path / "made" / f"video.{name}", map(colored, range(7)))
    frames = read(path)
    assert len(frames) == 7
    for number, frame in enumerate(frames):
        assert frame.shape == (SIDE, SIDE, 3)
        # mp4: 8-bit luma and chroma of the limited range round to within 2 levels, compression adds as much again
        assert abs(frame.astype(int) - PALETTE[number]).max() <= (0 if name == "gif" else 4)
    assert list(path.parent.iterdir()) == [path]


def test_a_gif_keeps_256_colors_exactly_and_approximates_more(tmp_path):
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    large = np.kron(
        gradient(), np.ones((9, 9, 1), np.uint8)
    )  # larger than what is looked at: some pixels choose the colors
    (exact,) = read(write(tmp_path / "gray.gif", [gray]))
    assert np.array_equal(exact, gray)
    for frame in (gradient(), large):
        (near,) = read(write(tmp_path / "near.gif", [frame]))
        # 32 x 32 steps of 8.2 in two channels: a palette of every second step would be one step off
        assert math.sqrt(((near.astype(int) - frame) ** 2).mean()) < 255 / 31
        assert len(np.unique(near.reshape(-1, 3), axis=0)) > 128


def test_every_frame_of_a_gif_has_its_own_palette(tmp_path):
    frames = read(write(tmp_path / "video.gif", [gradient(0), gradient(20)]))
    assert abs(frames[0][..., 2].astype(int) - 0).max() == 0
    assert abs(frames[1][..., 2].astype(int) - 200).max() == 0


@pytest.mark.parametrize(("fps", "seconds"), [(10, 7), (24, 70 / 24), (30, 70 / 30), (33, 70 / 33), (50, 1.4)])
def test_a_gif_up_to_50_frames_per_second_has_the_right_duration(fps, seconds):
    assert sum(gif_delay(frame, fps) for frame in range(70)) == pytest.approx(100 * seconds, abs=0.5)  # rounded once


def test_a_gif_has_delays_of_20_ms_or_more_and_loops(tmp_path):
    path = write(tmp_path / "video.gif", map(colored, range(5)), fps=60)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(image)] == [20] * 5


def test_an_mp4_is_yuv420p_with_its_index_first(tmp_path):
    av = pytest.importorskip("av", reason="mp4 needs PyAV")
    path = write(tmp_path / "odd.mp4", (colored(number, 31, 33) for number in range(9)), fps=60)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, stream.average_rate, stream.frames) == (32, 34, 60, 9)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


# --------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", FORMATS)
def test_no_frame_is_kept_in_memory(name, tmp_path):
    needs(name)
    alive, most = 0, 0

    def gone():
        nonlocal alive
        alive -= 1

    with open_video(tmp_path / f"video.{name}", 50) as append:
        for number in range(60):  # more than an H.264 encoder looks ahead
            frame = gradient(number % 20)
            weakref.finalize(frame, gone)
            alive += 1
            append(frame)
            del frame
            most = max(most, alive)
    assert most <= 1


@pytest.mark.parametrize(("name", "count"), [("gif", 10), ("mp4", 100)])  # H.264 looks ahead by about 50 frames
def test_frames_are_written_to_disk_as_they_come(name, count, tmp_path):
    needs(name)
    noise = np.random.RandomState(0)
    with open_video(tmp_path / f"video.{name}", 50) as append:
        for _ in range(count):  # of some 10 kB each
            append(noise.randint(0, 256, (128, 128, 3)).astype(np.uint8))
        (part,) = tmp_path.iterdir()
        assert part.name.endswith(".part") and part.stat().st_size > 100_000


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("frames", [0, 1, 60])
@pytest.mark.parametrize("name", FORMATS)
def test_an_incomplete_video_leaves_nothing_and_keeps_an_older_file(name, frames, stop, tmp_path):
    needs(name)
    older = tmp_path / f"video.{name}"
    older.write_bytes(b"older")
    with suppress(stop), open_video(older, 50) as append:
        for number in range(frames):
            append(gradient(number % 20))
        raise stop
    assert list(tmp_path.iterdir()) == [older]
    assert older.read_bytes() == b"older"


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_raises_an_error_with_the_path_and_leaves_nothing(name, tmp_path):
    needs(name)
    resource = pytest.importorskip("resource", reason="no limits of file sizes here")
    noise = np.random.RandomState(0).randint(0, 256, (100, 128, 128, 3)).astype(np.uint8)  # H.264 looks 50 ahead
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / f"video.{name}", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / f"video.{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_relative_path_may_contain_a_colon(name, tmp_path, monkeypatch):
    needs(name)
    monkeypatch.chdir(tmp_path)
    assert len(read(write(Path("a:b") / f"video.{name}", [colored(0)]).absolute())) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_video_without_frames_is_rejected_and_not_written(name, tmp_path):
    needs(name)
    with pytest.raises(ValueError, match="no frame was written"):
        write(tmp_path / f"video.{name}", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        ([np.zeros((8, 8), np.uint8)], r"uint8 H,W,3, got uint8 \(8, 8\)"),
        ([np.zeros((8, 8, 3))], r"uint8 H,W,3, got float64"),
        ([colored(0), colored(0, 16)], r"uint8 \(32, 32, 3\), got uint8 \(16, 32, 3\)"),
    ],
)
def test_frames_of_another_type_or_size_are_rejected(frames, got, tmp_path):
    with pytest.raises(ValueError, match=got):
        write(tmp_path / "video.gif", frames)
    assert list(tmp_path.iterdir()) == []


def test_formats_that_cannot_be_written_are_rejected(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="expected gif or mp4, got 'avi'"):
        write(tmp_path / "video.avi", [])
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    check_video_format("gif")
    with pytest.raises(ValueError, match=r'mp4: needs PyAV.*pip install -e "\.\[video\]"'):
        write(tmp_path / "video.mp4", [])


# --------------------------------------------------------------------------- views


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(0)
    narrow = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}
    options = GeneratorOptions("afhq", 128, semantic_channels=4, depth_resolution=6, **narrow)
    generator = construct(options.class_name, options.kwargs()).eval()
    generator.neural_rendering_resolution = 16
    return generator


@pytest.fixture(scope="module")
def poses():
    return path_poses("orbit", CAMERAS["seg2cat"], 5)


def counted(module):
    """List that grows by the batch size of every call of a module."""
    calls = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


@pytest.mark.parametrize("scenes", [1, 5])
def test_views_do_not_depend_on_the_batch_size(scenes, G, poses):
    ws = torch.randn(scenes, G.num_ws, G.w_dim, generator=torch.Generator().manual_seed(1))
    batches = [list(render_views(G, ws, None, poses, batch)) for batch in (1, 2, 5, None)]
    with torch.inference_mode():
        alone = [
            G.synthesis(ws[i % scenes, None], poses[i, None], noise_mode="const", jitter=False)
            for i in range(len(poses))
        ]
    for views in batches:
        assert len(views) == len(poses)
        for view, expected in zip(views, alone, strict=True):
            assert view.keys() == expected.keys()
            for name in view:  # float32 round-off: another batch size adds in another order
                torch.testing.assert_close(view[name], expected[name], atol=2e-5, rtol=1e-5)
    assert not torch.allclose(alone[0]["image"], alone[1]["image"], atol=1e-3)  # the camera moves


def test_planes_are_computed_once_per_scene_unless_they_are_passed(G, poses):
    ws = torch.randn(1, G.num_ws, G.w_dim)
    calls = counted(G.backbone.synthesis)
    given = G.planes(ws, noise_mode="const")
    calls.clear()
    list(render_views(G, ws, None, poses, batch=2))
    assert calls == [1]
    list(render_views(G, ws, given, poses, batch=2))
    assert calls == [1]
    list(render_views(G, ws.expand(5, -1, -1), None, poses, batch=2))
    assert calls == [1, 2, 2, 1]


def test_views_are_rendered_lazily(G, poses):
    calls = counted(G.superresolution)
    views = render_views(G, torch.randn(1, G.num_ws, G.w_dim), None, poses, batch=2)
    assert calls == []
    next(views)
    assert calls == [2]
    next(views), next(views)
    assert calls == [2, 2]


def test_more_views_are_rendered_at_once_where_they_are_small(G, monkeypatch):
    small = views_at_once(G, torch.device("cpu"))
    assert 1 < small < views_at_once(G, torch.device("cuda"))
    monkeypatch.setattr(G, "img_resolution", 1024)
    assert views_at_once(G, torch.device("cpu")) == 1
    monkeypatch.setattr(G, "img_resolution", 128)
    monkeypatch.setitem(G.rendering_kwargs, "ray_start", "auto")
    monkeypatch.setitem(G.rendering_kwargs, "ray_end", "auto")
    assert views_at_once(G, torch.device("cpu")) == 1


def test_numbers_of_ws_and_poses_must_agree(G, poses):
    with pytest.raises(ValueError, match="ws: expected 1 or 5 for 5 poses, got 3"):
        next(render_views(G, torch.zeros(3, G.num_ws, G.w_dim), None, poses))
