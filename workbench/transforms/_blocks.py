"""Matrices rounded block by block, each block with a scale of its own, and packed as operators read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blocks:
    """A matrix (K, N) in blocks along K; the last block is filled up with zeros.

    Attributes:
        steps: Unsigned numbers below 2**bits, uint8 (blocks, block size, N).
        scale: float32 (blocks, N).
        zero: The number that stands for 0, uint8 (blocks, N).
    """

    steps: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]


def round_blocks(matrix: NDArray[np.float32], bits: int, size: int, *, symmetric: bool, negative: bool) -> Blocks:
    """Rounds a matrix to the nearest steps.

    Args:
        matrix: Weights (K, N).
        bits: Of each number.
        size: Of each block along K.
        symmetric: 0 lies in the middle of the steps; otherwise they span from the smallest to the largest weight.
        negative: Scales may be negative. The largest weight of a symmetric block then falls on the lowest step, of
            which there is one more below 0 than above: all steps are used.
    """
    rows, columns = matrix.shape
    count = -(-rows // size)
    padded = np.zeros((count * size, columns), np.float32)
    padded[:rows] = matrix
    blocks = padded.reshape(count, size, columns)
    half = 2 ** (bits - 1)
    if symmetric:
        place = np.abs(blocks).argmax(axis=1, keepdims=True)
        extreme = np.take_along_axis(blocks, place, axis=1)[:, 0]
        scale = extreme / -half if negative else np.abs(extreme) / (half - 1)
        zero = np.full(scale.shape, half, np.float32)
    else:
        low, high = blocks.min(axis=1).clip(max=0), blocks.max(axis=1).clip(min=0)
        scale = (high - low) / (2 * half - 1)
        zero = np.rint(-low / np.where(scale, scale, 1))
    scale = np.where(scale, scale, 1).astype(np.float32)
    steps = np.rint(blocks / scale[:, None]) + zero[:, None]
    return Blocks(steps.clip(0, 2 * half - 1).astype(np.uint8), scale, zero.astype(np.uint8))


def pack_pairs(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Puts two numbers of 4 bits into a byte along the last axis, the first into the lower half."""
    if steps.shape[-1] % 2:
        steps = np.concatenate([steps, np.zeros((*steps.shape[:-1], 1), np.uint8)], axis=-1)
    packed: NDArray[np.uint8] = (steps[..., 0::2] | steps[..., 1::2] << 4).astype(np.uint8)
    return packed
