"""Time limit of JPEG files, checked before they are decoded: the number of their segments and scans."""

from __future__ import annotations

import re

from dnnlib.limits import MAX_JPEG_PIXEL_SCANS, MAX_JPEG_SEGMENTS, MAX_PHOTO_PIXELS

# Markers (JPEG specification, table B.1). In compressed pixels, 0xFF is followed by 0 or by a restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = frozenset((0x01, 0xD8))


def check_jpeg(content: bytes) -> None:
    """Reject a JPEG file that would take minutes to decode; other files pass.

    Raises:
        ValueError: more segments, or more scans of its pixels, than the limits allow.
    """
    if not content.startswith(b"\xff\xd8"):
        return

    # Almost every file has too few scans and is too small to reach the limits; the search below would cost a third of
    # the time of decoding.
    if content.count(b"\xff\xda") <= MAX_JPEG_PIXEL_SCANS // MAX_PHOTO_PIXELS and len(content) <= 4 * MAX_JPEG_SEGMENTS:
        return

    segments = 0
    pixels = 0
    scans = 0
    position = 2
    while match := _MARKER.search(content, position):
        marker = match[1][0]
        if marker == _END_OF_IMAGE:
            break

        # Segments have a length of two bytes, which counts itself; they can hold markers of other images. A frame's
        # length is followed by its precision, height and width.
        position = match.end()
        if marker in _START_OF_FRAME:
            height = int.from_bytes(content[position + 3 : position + 5], "big")
            pixels = height * int.from_bytes(content[position + 5 : position + 7], "big")
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2], "big")

        # A decoder visits all pixels in each scan of a progressive file.
        segments += 1
        scans += marker == _START_OF_SCAN
        if segments > MAX_JPEG_SEGMENTS or scans * pixels > MAX_JPEG_PIXEL_SCANS:
            raise ValueError(f"a JPEG of {scans} scans and {segments} segments or more; save the image again")
