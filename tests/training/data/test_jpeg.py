"""JPEG files that would take minutes to decode are refused before decoding; all others pass."""

import io

import numpy as np
import pytest
from PIL import Image

from dnnlib.limits import MAX_JPEG_SEGMENTS
from training.data.jpeg import check_jpeg

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def jpeg(pixels: np.ndarray = NOISE, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", **options)
    return file.getvalue()


def with_scans(content: bytes, number: int) -> bytes:
    """Repeat the last scan of a JPEG file."""
    start = content.rfind(b"\xff\xda")
    return content[:-2] + content[start:-2] * number + content[-2:]


LARGE = jpeg(np.full((2000, 2000), 128, np.uint8), progressive=True)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg(quality=100, subsampling=0, progressive=True),
        jpeg(exif=b"Exif\0\0" + b"\xff\xda" * 10_000),  # scans of a preview are not its own
        jpeg(comment=b"\xff" * 1000),
        jpeg(restart_marker_blocks=1),
        jpeg() + b"\xff\xda" * 200_000,  # what follows the image, such as a video of a phone
        jpeg()[:-2],
        jpeg(progressive=True)[:700],
        with_scans(LARGE, 900),
        with_scans(jpeg(progressive=True), 5000),  # few pixels
        b"\xff\xd8",
        b"\xff\xd8\xff\xda",
        b"\x89PNG" + b"\xff\xda" * 200_000,
        b"",
    ],
)
def test_real_and_damaged_files_pass(content):
    check_jpeg(content)


@pytest.mark.parametrize(
    "content",
    [
        with_scans(LARGE, 1100),
        with_scans(jpeg(np.zeros((200, 200), np.uint8), progressive=True), 99_999),
        b"\xff\xd8" + b"\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS + 1),
        b"\xff\xd8" + b"\xff\xda\0\2" * 10_000_000,
        b"\xff\xd8\xff\xc2\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0" + b"\xff\xda\0\2" * 17,  # 65535 x 65535 pixels
    ],
)
def test_a_file_of_thousands_of_scans_or_segments_is_refused(content):
    with pytest.raises(ValueError, match=r"a JPEG of \d+ scans and \d+ segments or more"):
        check_jpeg(content)
