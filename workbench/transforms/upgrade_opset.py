"""Another opset: the model in the words of a newer version of ONNX, for tools that ask for one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.transforms._onnx import write_whole
from workbench.transforms._opset import raise_opset

REQUIRES = {"onnxruntime": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False


@dataclass(frozen=True)
class Options:
    """Where to."""

    target: Annotated[
        int, option("Opset to convert to; 0 takes the newest that ONNX Runtime runs here.", minimum=0, maximum=99)
    ] = 0


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the model in another opset (ONNX's version converter); weights of any size stay as they are.

    Raises:
        TransformError: The opset is not known here or older than the model's, or the converter lacks an operator.
    """
    newest = _newest_opset()
    wanted = options.target or max(newest, model.opset)
    if wanted > newest:
        raise TransformError(
            f"ONNX Runtime runs opsets up to {newest} here, and {model.name} was to get {wanted}.",
            "Choose an older one, or update ONNX Runtime.",
        )
    if wanted < model.opset:
        raise TransformError(
            f"{model.name} has opset {model.opset} already, and {wanted} is older: not every model can go back.",
            "Export the model again with that opset.",
        )
    progress(0.1, "reading the model")
    proto = read_whole(model.path)
    progress(0.3, f"converting to opset {wanted}")
    raise_opset(proto, wanted, model.name)
    progress(0.8, "writing the model")
    write_whole(proto, target)


def _newest_opset() -> int:
    """The newest opset that ONNX Runtime takes, found by asking it."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its refusals are the answer, not news
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    for version in range(onnx.defs.onnx_opset_version(), 1, -1):
        probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)
        with contextlib.suppress(Exception):  # onnxruntime raises its own C++ exception classes
            onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
            return version
    raise TransformError("ONNX Runtime takes no opset that this ONNX knows.", "Update both packages.")
