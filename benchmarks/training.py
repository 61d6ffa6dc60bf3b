"""Training after compression on the bundled digits: how small and fast a student gets, and what accuracy it costs.

Students learn on the training split; the evaluation split scores each of them once, at the end, and chooses nothing.
Speed is the median of single inferences on one thread, each against the original in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from workbench.dataset import Dataset
from workbench.importers import load_dataset, load_model
from workbench.model import Model
from workbench.training import distil, prune_module
from workbench.transforms import transform
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from torch import nn

AUGMENT = "workbench.samples.train_digits:augment"
DISTIL = {"epochs": 40, "learning_rate": 8e-3, "augment": AUGMENT}
TUNE = {"epochs": 8, "learning_rate": 3e-3, "augment": AUGMENT}
ROUNDS, CALLS = 15, 20


@dataclass(frozen=True)
class Case:
    """One way to a smaller model, and what it is to reach.

    Attributes:
        name: For the table.
        make: Gives the model.
        lost: Points of top-1 that it may lose.
        smaller: Times that its file is to be smaller; 0 asks for nothing.
        faster: Times that it is to be faster; 0 asks for nothing.
    """

    name: str
    make: Callable[[], Model]
    lost: float
    smaller: float = 0
    faster: float = 0


def build_student() -> nn.Module:
    """The student that learns from the beginning: images (N, 1, 32, 32) to logits (N, 10), 19 k weights."""
    from torch import nn

    def stage(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    stages = [
        stage(1, 16, stride=2),
        stage(16, 24),
        stage(24, 32, stride=2),
        stage(32, 32, groups=32),
        stage(32, 48, 1),
    ]
    stages += [stage(48, 48, stride=2, groups=48), stage(48, 96, 1)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def build_teacher() -> nn.Module:
    """The bundled network with its trained weights, as a torch module of the user's would be."""
    import torch

    from workbench.samples.digits import MODEL_PATH
    from workbench.samples.train_digits import build_network

    network = build_network()
    weights = {
        tensor.name.replace("/", "."): torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(MODEL_PATH).graph.initializer
    }
    network.load_state_dict(OrderedDict(weights), strict=False)
    return network


def main() -> None:
    """Prints one line per case; `--threads N` trains with so many."""
    threads = int(sys.argv[sys.argv.index("--threads") + 1]) if "--threads" in sys.argv else 0
    teacher, training = load_model("sample:digits"), load_dataset("sample:digits", "training")
    evaluation = load_dataset("sample:digits", "evaluation")
    here = Path(__file__).absolute()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)

        def tune(student: Any, options: dict[str, Any]) -> Model:
            return distil(teacher, student, training, {**options, "threads": threads}, workspace=workspace).model

        def prune(share: float) -> Model:
            pruned = transform(teacher, "prune_channels", {"share": share}, dataset=training, workspace=workspace)
            return tune(pruned, TUNE)

        def prune_torch(share: float) -> Model:
            options = {**TUNE, "threads": threads}
            cut = {"share": share}
            source = f"{here}:build_teacher"
            return prune_module(source, training, cut, training_options=options, workspace=workspace).model

        cases = (
            Case("distilled from the beginning", lambda: tune(f"{here}:build_student", DISTIL), 1.5, smaller=8),
            Case("half the channels (0.5)", lambda: tune(0.5, TUNE), 1.0),
            Case("prune_channels 30 % + tuning", lambda: prune(30), 1.0),
            Case("prune_channels 50 % + tuning", lambda: prune(50), 1.0, faster=2.5),
            Case("torch-pruning 30 % + tuning", lambda: prune_torch(30), 1.0),
            Case("torch-pruning 50 % + tuning", lambda: prune_torch(50), 1.0, faster=2.5),
        )
        original = score(teacher, evaluation)
        print(f"original: top-1 {original:.2f} %, {teacher.size_bytes / 1e3:.0f} kB")
        print(f"{'':32}{'top-1':>8}{'lost':>7}{'smaller':>9}{'faster':>8}{'seconds':>9}  target")
        for case in cases:
            run(case, teacher, original, evaluation)


def run(case: Case, teacher: Model, original: float, evaluation: Dataset) -> None:
    """Makes one model and prints its line."""
    start = time.perf_counter()
    model = case.make()
    seconds = time.perf_counter() - start
    top1, smaller = score(model, evaluation), teacher.size_bytes / model.size_bytes
    faster = speed_up(teacher, model, evaluation.inputs)
    met = original - top1 <= case.lost and smaller >= case.smaller and faster >= case.faster
    wanted = [f"≤ {case.lost:g} points"]
    wanted += [f"≥ {case.smaller:g} × smaller"] if case.smaller else []
    wanted += [f"≥ {case.faster:g} × faster"] if case.faster else []
    print(
        f"{case.name:32}{top1:>6.2f} %{original - top1:>7.2f}{smaller:>7.1f} ×{faster:>6.2f} ×{seconds:>9.0f}"
        f"  {', '.join(wanted)} {'✓' if met else '✗'}",
        flush=True,
    )


def score(model: Model, evaluation: Dataset) -> float:
    """Top-1 in %."""
    [answers] = open_session(model).run(None, dict(evaluation.inputs))
    return 100 * float((answers.argmax(1) == evaluation.labels).mean())


def speed_up(before: Model, after: Model, inputs: Any) -> float:
    """The median of the rounds' ratios of time."""
    feed = {name: np.ascontiguousarray(array[:1]) for name, array in inputs.items()}
    sessions = [open_session(model) for model in (before, after)]
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for session in sessions:
            session.run(None, feed)
            taken = []
            for _ in range(CALLS):
                start = time.perf_counter()
                session.run(None, feed)
                taken.append(time.perf_counter() - start)
            times.append(statistics.median(taken))
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def open_session(model: Model) -> onnxruntime.InferenceSession:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
