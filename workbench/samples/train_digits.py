"""Trains the bundled sample model: `python -m workbench.samples.train_digits [--output FILE] [--epochs N]`.

Epochs are fixed beforehand; the evaluation split is scored once, at the end, by ONNX Runtime on the exported model, and
chooses nothing. Seed and threads are fixed too, so a second run with the same PyTorch on the same machine gives the
same file; elsewhere rounding differs, and the model comes out slightly different and as good.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.samples.digits import CLASSES, MODEL_PATH, load_split

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

REQUIRES = {"torch": "torch", "onnxruntime": "cpu"}
EPOCHS, BATCH_SIZE, PEAK_LEARNING_RATE = 40, 64, 4e-3
SEED, THREADS = 0, 2
OPSET, IR_VERSION = 17, 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, export, score and save the model, and print how it goes; returns the exit status."""
    parser = argparse.ArgumentParser("python -m workbench.samples.train_digits", description="Train the sample model")
    parser.add_argument("--output", type=Path, default=MODEL_PATH.name, help="file to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the images (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be 1 or more.")

    missing = [name for name in REQUIRES if find_spec(name) is None]
    if missing:
        extras = ",".join(REQUIRES[name] for name in missing)
        print(
            f"Training the sample model needs {' and '.join(missing)}, which this Python does not have. Install with "
            f"`pip install 'deployment-workbench[{extras}]'` and run the command again. Using the sample needs no "
            f"training: the trained model comes with the package, as {MODEL_PATH.name}.",
            file=sys.stderr,
        )
        return 1

    model = export(train(options.epochs, report=print))
    top1 = score(model, options.epochs)
    partial = options.output.with_name(f"{options.output.name}.part")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    partial.replace(options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, top-1 {top1:.2%} on the evaluation split")
    return 0


def build_network() -> nn.Module:
    """Build the untrained network: images (N, 1, 32, 32) to logits (N, 10); 218 k parameters, 36 M MACs per image."""
    import torch
    from torch import nn

    class Residual(nn.Sequential):  # type: ignore[misc, unused-ignore]
        skip = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self
            return torch.relu(x + second(first(x)))  # type: ignore[no-any-return, unused-ignore]

    def chain(**layers: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(layers))

    def stage(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return chain(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU())

    return chain(
        stem=stage(1, 16),
        widen=stage(16, 32),
        down=stage(32, 64, stride=2),
        residual=Residual(OrderedDict(first=stage(64, 64), second=stage(64, 64)[:-1])),
        separable=chain(depthwise=stage(64, 64, stride=2, groups=64), pointwise=stage(64, 96, kernel=1)),
        top=stage(96, 128),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(128, len(CLASSES)),
    )


def train(epochs: int, report: Callable[[str], None]) -> nn.Module:
    """Train the network on the training split for `epochs` passes; `report` gets one line per pass."""
    import torch
    from torch.nn import CrossEntropyLoss

    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)

    images, labels = (torch.from_numpy(array) for array in load_split("training"))
    network = build_network().train()
    batches = len(images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * batches)
    loss_of = CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images))[: batches * BATCH_SIZE].view(batches, BATCH_SIZE):
            loss = loss_of(network(augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        report(f"epoch {epoch + 1}/{epochs}: training loss {total / batches:.4f}")
    return network.eval()


def augment(images: torch.Tensor) -> torch.Tensor:
    """Rotate (±12°), scale (±10 %) and shift (±2 pixels) each image of (N, 1, 32, 32) by its own random amount."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    turn, zoom, right, down = (torch.rand(4, len(images)) * 2 - 1) * torch.tensor([[0.21], [0.1], [0.125], [0.125]])
    cosine, sine = (1 + zoom) * turn.cos(), (1 + zoom) * turn.sin()
    affine = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).reshape(-1, 2, 3)
    return grid_sample(images, affine_grid(affine, list(images.shape), align_corners=False), align_corners=False)


def export(network: nn.Module) -> onnx.ModelProto:
    """Write the network as ONNX, one node per layer, named by its place: `residual/first/conv`.

    Not by `torch.onnx.export`: that folds BatchNormalization, which pruning needs, and records this machine's paths.
    """
    from onnx import NodeProto, TensorProto, checker, helper, numpy_helper
    from torch import nn

    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []

    def add(operator: str, name: str, inputs: list[str], layer: nn.Module | None = None, **attributes: Any) -> str:
        state = {f"{name}/{key}": value for key, value in layer.state_dict().items() if value.ndim} if layer else {}
        weights.extend(numpy_helper.from_array(value.numpy(), key) for key, value in state.items())
        nodes.append(helper.make_node(operator, [*inputs, *state], [f"{name}/out"], name, **attributes))
        return f"{name}/out"

    def visit(layer: nn.Module, name: str, x: str) -> str:
        match layer:
            case nn.Sequential():
                y = x
                for key, child in layer.named_children():
                    y = visit(child, f"{name}/{key}".lstrip("/"), y)
                return add("Relu", f"{name}/relu", [add("Add", f"{name}/add", [x, y])]) if hasattr(layer, "skip") else y
            case nn.Conv2d():
                window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": [*layer.padding] * 2}
                return add("Conv", name, [x], layer, group=layer.groups, **window)
            case nn.BatchNorm2d():
                return add("BatchNormalization", name, [x], layer, epsilon=layer.eps)
            case nn.Linear():
                return add("Gemm", name, [x], layer, transB=1)
        plain = {nn.ReLU: "Relu", nn.AdaptiveAvgPool2d: "GlobalAveragePool", nn.Flatten: "Flatten"}
        return add(plain[type(layer)], name, [x])

    visit(network, "", "image")
    nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    graph = helper.make_graph(nodes, "digits_cnn", [image], [logits], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="workbench", opset_imports=opsets, ir_version=IR_VERSION)
    model.doc_string = "Classifies handwritten digits: image (batch, 1, 32, 32), 0 paper to 1 ink; a logit per digit."
    checker.check_model(model, full_check=True)
    return model


def score(model: onnx.ModelProto, epochs: int) -> float:
    """Measure top-1 (0 to 1) on the evaluation split and write it, with the facts of training, into the model."""
    import onnxruntime
    import torch
    from onnx import helper

    images, labels = load_split("evaluation")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    top1 = float((logits.argmax(axis=1) == labels).mean())
    facts = {
        "dataset": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits), enlarged to 32x32",
        "training_sha256": hashlib.sha256(load_split("training")[0].tobytes()).hexdigest(),
        "training": f"{epochs} epochs, seed {SEED}, {THREADS} threads, PyTorch {torch.__version__}",
        "evaluation_top1": f"{top1:.4f}",
    }
    helper.set_model_props(model, facts)
    return top1


if __name__ == "__main__":
    sys.exit(main())
