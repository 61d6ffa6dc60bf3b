"""Torch modules that the tests train, as a user's own file would hold them; nothing here is slow to build."""

from __future__ import annotations

import math

import torch
from torch import nn


def small() -> nn.Module:
    """Learns the digits a little in a few epochs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def wide() -> nn.Module:
    """Its third layer gives 8 channels of 32×32, which the tests match."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8192, 10))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))


def five_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 5))


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10), nn.Softmax(1))


def other_input() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def no_module() -> int:
    return 3


def shift(images: torch.Tensor) -> torch.Tensor:
    """An augmentation."""
    return images.roll(int(torch.randint(-2, 3, ())), -1)


def spoil(images: torch.Tensor) -> torch.Tensor:
    """An augmentation that makes nonsense."""
    return images * math.inf


def cut(images: torch.Tensor) -> torch.Tensor:
    """An augmentation that gives fewer samples."""
    return images[:1]
