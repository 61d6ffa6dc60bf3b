"""Nets with real accuracy for the benchmarks: the bundled one, and others that are trained here in about a minute."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from workbench.samples.digits import load_split
from workbench.samples.train_digits import augment

Trained = tuple[str, Path, str, tuple[wb.Dataset, wb.Dataset]]


def trained_nets(folder: Path) -> Iterator[Trained]:
    """Yields name, file, name of the input, and (calibration, evaluation) samples."""
    data = tuple(wb.load_dataset("sample:digits", split) for split in ("calibration", "evaluation"))
    bundled = folder / "digits.onnx"
    shutil.copy(wb.load_model("sample:digits").path, bundled)
    yield "digits_cnn", bundled, "image", data
    for name, build, epochs, rate in (("depthwise", depthwise, 15, 3e-3), ("attention", attention, 60, 1e-3)):
        yield name, train(build(), folder / f"{name}.onnx", epochs, rate), "image", data


def depthwise() -> Any:
    """A net of inverted residuals (Sandler et al., 2018), 0.3 million parameters."""
    from torch import nn

    def stage(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> Any:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6() if act else nn.Identity())

    class Inverted(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            wide = 4 * inputs
            self.inner = nn.Sequential(
                stage(inputs, wide), stage(wide, wide, 3, stride, wide), stage(wide, outputs, act=False)
            )
            self.skip = inputs == outputs and stride == 1

        def forward(self, x: Any) -> Any:
            return x + self.inner(x) if self.skip else self.inner(x)

    blocks = [(16, 24, 1), (24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1)]
    return nn.Sequential(
        stage(1, 16, 3, 2),
        *(Inverted(*block) for block in blocks),
        stage(96, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def attention() -> Any:
    """A transformer over patches (Dosovitskiy et al., 2021), 0.4 million parameters."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            y = self.first(x)
            q, k, v = (
                part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
            )
            weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
            x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
            return x + self.narrow(nn.functional.gelu(self.wide(self.second(x))))

    class Net(nn.Module):
        def __init__(self, width: int = 96) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 4, 4)
            self.place = nn.Parameter(torch.randn(64, width) * 0.02)
            self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(3)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, image: Any) -> Any:
            tokens = self.patches(image).flatten(2).transpose(1, 2) + self.place
            return self.head(self.norm(self.blocks(tokens)).mean(1))

    return Net()


def train(network: Any, path: Path, epochs: int, rate: float) -> Path:
    """Trains on the digits' training split and writes the net as ONNX; the evaluation split is not looked at."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(2)
    images, labels = (torch.from_numpy(array) for array in load_split("training"))
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(images) // 64))
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: len(images) // 64 * 64].view(-1, 64):
            loss = torch.nn.functional.cross_entropy(network(augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    samples = wb.Dataset({"image": np.zeros((2, 1, 32, 32), np.float32)})
    model = wb.load_model(network.eval(), samples=samples, workspace=wb.Workspace(path.parent / "workspace"))
    shutil.copy(model.path, path)
    return path
