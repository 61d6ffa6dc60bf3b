"""Samples as small pictures, where an input looks like images."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIXELS = 64  # on the longer side


def image_input(inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The first input that looks like images, as `(samples, height, width, 1 or 3)`; None if none does."""
    for array in inputs.values():
        if array.ndim == 4 and array.dtype.kind in "uif" and min(array.shape) > 0:
            if array.shape[1] in (1, 3):
                return array.transpose(0, 2, 3, 1)
            if array.shape[3] in (1, 3):
                return array
    return None


def thumbnail(image: NDArray[Any]) -> str:
    """An image `(height, width, 1 or 3)` as the address of a PNG, its darkest value black and its brightest white."""
    step = -(-max(image.shape[:2]) // _PIXELS)
    pixels = image[::step, ::step].astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (255 * (pixels - low) / (high - low or 1.0)).round().astype(np.uint8)
    return f"data:image/png;base64,{base64.b64encode(png(scaled)).decode()}"


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Writes grey or colour pixels, `(height, width, 1 or 3)`, as PNG (W3C, Portable Network Graphics, 2003)."""
    height, width, channels = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: no filter
    kind = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
