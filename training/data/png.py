"""Checksums of PNG files: PIL checks those of metadata, but not those of pixels."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Chunks that decide which pixels an image has (PNG specification, 11.2); each has length, kind, content and checksum.
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT")
_END = b"IEND"


def check_png(content: bytes) -> None:
    """Reject a PNG file whose pixels are damaged, which could show others without an error; other files pass.

    Raises:
        ValueError: a checksum is wrong.
    """
    if not content.startswith(SIGNATURE):
        return

    # Views, since slices would copy the pixels. A file that is cut short is noticed when it is decoded.
    view = memoryview(content)
    position = len(SIGNATURE)
    while position + 8 <= len(content):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        if kind == _END:
            return
        if kind in _CRITICAL and end + 4 <= len(content):
            checksum = int.from_bytes(view[end : end + 4], "big")
            if zlib.crc32(view[position + 4 : end]) != checksum:
                raise ValueError(f"damaged image (the checksum of {kind.decode()} is wrong)")
        position = end + 4
