"""What several packages hold alike: the model's files, the sample with its answer, and what was measured in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import ExportError
from workbench.exporters import Contents
from workbench.model import Model, TensorSpec
from workbench.options import option
from workbench.report import describe_steps, format_estimate
from workbench.serving_plan import describe_plan

# NumPy's names of element types → those of the Open Inference Protocol V2.
DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


BodyMegabytes = (
    Annotated[
        float,
        option(
            "Largest request body; 8 × the sample request if not given, and at least 16.",
            minimum=0.001,
            maximum=2000,
            unit="MB",
            advanced=True,
            example="16",
        ),
    ]
    | None
)


def datatype(spec: TensorSpec, carrier: str) -> str:
    """The protocol's name of a tensor's element type.

    Args:
        spec: The tensor.
        carrier: What has to carry it, for the message, e.g. `this server's protocol`.

    Raises:
        ExportError: The protocol has none.
    """
    if spec.dtype not in DATATYPES:
        raise ExportError(
            f"'{spec.name}' is {spec.dtype}, which {carrier} does not carry.",
            f"Cast it inside the model to one of {', '.join(DATATYPES)}.",
        )
    return DATATYPES[spec.dtype]


def why_no_batches(model: Model) -> str:
    """Why requests of several callers cannot share an inference; empty if every tensor has a batch axis of any size."""
    if all(spec.dynamic_batch for spec in (*model.inputs, *model.outputs)):
        return ""
    fixed = model.fixed_batch
    return f"the model's batch is fixed at {fixed}" if fixed else "not every tensor has a batch axis"


def copy_model(model: Model, folder: Path) -> None:
    """Writes `model.onnx` and the weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.path, folder / "model.onnx")
    for name in model.external_files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path.parent / name, target)


def write_samples(
    contents: Contents,
    version: str,
    directory: Path,
    shape_of: Callable[[NDArray[Any], TensorSpec], Sequence[int]] = lambda array, spec: array.shape,
) -> int:
    """Writes `sample_request.json` and `sample_response.json` as the protocol has them.

    Args:
        contents: Has the sample and the candidate's answer to it; every element type must have a name.
        version: What the model is served as.
        directory: Where to.
        shape_of: The shape that a tensor travels in.

    Returns:
        Bytes of the request.
    """
    model = contents.candidate.engine.model
    inputs, outputs = (
        [
            {
                "name": spec.name,
                "datatype": DATATYPES[spec.dtype],
                "shape": list(shape_of(arrays[spec.name], spec)),
                "data": np.ravel(arrays[spec.name]).tolist(),
            }
            for spec in specs
        ]
        for specs, arrays in ((model.inputs, contents.sample), (model.outputs, contents.answer))
    )
    answer = {"model_name": contents.name, "model_version": version, "outputs": outputs}
    write_json(directory / "sample_response.json", answer)
    return write_json(directory / "sample_request.json", {"inputs": inputs})


def write_json(path: Path, value: Any) -> int:
    """Writes plain values as JSON; returns the bytes."""
    return path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def common_words(contents: Contents) -> dict[str, str]:
    """What READMEs say of a candidate: tensors, steps, measurements, the plan's rows, the time."""
    model, measured = contents.candidate.engine.model, contents.measured
    lines = ["not measured"]
    if measured:
        p50, p99 = format_estimate(measured.latency.p50), format_estimate(measured.latency.p99)
        lines = [f"p50 {p50} ms, p99 {p99} ms at batch {measured.latency.batch}, {measured.latency.threads} thread(s)"]
        if doubts := measured.latency.trust.caveats:
            lines.append(f"**do not trust these times**: {', '.join(doubts)}")
        if measured.accuracy:
            accuracy = measured.accuracy
            lines.append(f"{accuracy.metric} {100 * accuracy.value.value:.1f} % on {accuracy.samples} samples")
        if measured.change:
            change = measured.change
            doubt = "" if change.significant else ", which chance explains"
            lines.append(f"{change.difference.value:+.1f} points against the original{doubt}")
        if measured.speedup.value != 1:
            lines.append(f"{format_estimate(measured.speedup)} × as fast as the original")
    steps = describe_steps(measured) if measured else ", ".join(s.transform for s in model.history) or "as loaded"
    rows = [f"| {name} | {value} | {source} |" for name, value, source in describe_plan(contents.plan)]
    return {
        "name": contents.name,
        "inputs": "; ".join(map(str, model.inputs)),
        "outputs": "; ".join(map(str, model.outputs)),
        "candidate": f"{contents.candidate.name} ({steps})",
        "measured": "; ".join(lines),
        "numbers": "\n".join(rows),
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
