"""Runs the original and its ONNX model on the same inputs and says how far they are apart, and where that begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.conversion import Conversion, OutputCheck
from workbench.engine import Tensors, random_feed
from workbench.errors import ConversionError
from workbench.importers._source import Source
from workbench.jobs import Progress
from workbench.model import Model

_SAMPLES = 8  # of the user's: enough to see a fault, few enough for any model
_RANDOM = 3  # random inputs; not 1, so that a batch frozen by the conversion shows
_COARSE = 0.05  # tolerance of integer models: a few rounding steps of 1/256 of the range
_TINY = 1e-6  # differences below this are rounding whatever the range
_AT_ONCE = 16  # inner values held in memory while looking for the first difference


def verify(source: Source, model: Model, tolerance: float, progress: Progress) -> Conversion:
    """Compares every output of the original and its ONNX model.

    Args:
        source: The original, still open; its samples are what both run on, random values if it has none.
        model: The ONNX model that was made of it.
        tolerance: Largest allowed difference, as a share of the output's range.

    Raises:
        ConversionError: An output differs by more; the message names it and, where the original lets one look
            inside, the first node that differs.
        DatasetError: The samples do not fit the model.
    """
    samples = source.samples
    if samples is not None:
        samples.check_fits(model)
        feed = _filled(next(samples.take(_SAMPLES).batches(model.fixed_batch or _SAMPLES)), model.fixed_batch)
    elif source.example is not None:
        feed = dict(source.example)
    else:
        feed = _spread(random_feed(model, model.fixed_batch or _RANDOM))
    progress(0.2, f"running the original in {source.framework}")
    expected = source.infer(feed)
    progress(0.5, "running the ONNX model")
    names = [spec.name for spec in model.outputs]
    given = run_onnx(model.path, feed, names)
    if len(given) != len(expected):
        raise ConversionError(
            f"The original has {len(expected)} outputs and its ONNX model {len(given)} ({', '.join(names)}).",
            "Report this with the model's graph.",
        )
    if source.coarse:
        tolerance = max(tolerance, _COARSE)
    checks = []
    for name, ours, theirs in zip(names, given, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ConversionError(
                f"Output '{name}' has shape {ours.shape} where the original gives {theirs.shape}.",
                "The conversion has fixed an axis that should stay free, or changed the layout: "
                "give samples or inputs of the real size.",
            )
        checks.append(compare_output(name, ours, theirs))
    worst = max(checks, key=lambda check: check.max_abs_error / (check.range or 1), default=None)
    if worst and _differs(worst, tolerance):
        _refuse(source, model, feed, worst, tolerance, progress)
    return Conversion(
        framework=source.framework,
        checks=tuple(checks),
        samples=len(next(iter(feed.values()), ())),
        inputs=samples.name if samples is not None else "random values",
        tolerance=tolerance,
        notes=tuple(source.notes),
    )


def compare_output(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> OutputCheck:
    """Compares two arrays of one shape; a NaN or an infinity that both have in the same place is no difference."""
    if theirs.dtype.kind in "OSU":  # text; bfloat16 and its like are numbers that NumPy does not know as such
        same = float(np.mean(ours.astype(str) == theirs.astype(str))) if theirs.size else 1.0
        return OutputCheck(name, 1.0 - same, 1.0, same, None)
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    alike = finite | (a == b) | (np.isnan(a) & np.isnan(b))
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    error = float(np.abs(a - b).max(initial=0.0)) if alike.all() else float("inf")
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(not np.any(a) and not np.any(b))
    rows = ours.ndim >= 2 and ours.shape[-1] > 1 and ours.size > 0
    top1 = float(np.mean(ours.argmax(-1) == theirs.argmax(-1))) if rows else None
    return OutputCheck(name, error, float(np.abs(b).max(initial=0.0)), min(1.0, cosine), top1)


def run_onnx(path: Path, feed: Tensors, outputs: Sequence[str], content: bytes | None = None) -> list[NDArray[Any]]:
    """Runs an ONNX model as it is written, without the optimizer; `content` stands in for the file if given."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if content is not None:  # weights beside the file are still found
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        session = ort.InferenceSession(content or str(path), options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(list(outputs), dict(feed))]
    except Exception as error:  # onnxruntime's classes share no base
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ConversionError(
            f"ONNX Runtime cannot run the converted model: {reason}.",
            "Try another opset; if it names an operator that it does not have, replace that layer.",
        ) from None


def first_difference(source: Source, model: Model, feed: Tensors, tolerance: float, progress: Progress) -> str:
    """Names the first node whose value differs, among those whose values both sides know.

    The nodes stand in an order in which each comes after those that it takes from, so that all that the found one
    takes agrees. Bisection would miss it where branches run side by side: a few values at a time are compared.

    Returns:
        Name and operator of the node; empty if no inner value differs.
    """
    import onnx

    proto = onnx.load(str(model.path), load_external_data=False)
    known = set(source.value_names())
    nodes = [(node, value) for node in proto.graph.node for value in node.output if value in known]
    typed = {value.name: value for value in (*proto.graph.output, *proto.graph.value_info)}
    declared = {name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for name, value in typed.items()}
    for start in range(0, len(nodes), _AT_ONCE):
        progress(0.6 + 0.4 * start / len(nodes), f"looking for the first difference: node {start} of {len(nodes)}")
        part = nodes[start : start + _AT_ONCE]
        names = [value for _, value in part]
        del proto.graph.output[:]
        proto.graph.output.extend(declared.get(name, onnx.ValueInfoProto(name=name)) for name in names)
        given = run_onnx(model.path, feed, names, proto.SerializeToString())
        theirs = source.values(feed, names)
        for (node, name), ours in zip(part, given, strict=True):
            if name in theirs and (
                ours.shape != theirs[name].shape or _differs(compare_output(name, ours, theirs[name]), tolerance)
            ):
                return f"'{node.name or name}' ({node.op_type})"
    return ""


def _filled(feed: Tensors, batch: int | None) -> dict[str, NDArray[Any]]:
    """Repeats samples where there are fewer than a model with a fixed batch takes."""
    return {name: np.resize(array, (batch or len(array), *array.shape[1:])) for name, array in feed.items()}


def _spread(feed: Tensors) -> dict[str, NDArray[Any]]:
    """Random values as networks see them: on both sides of zero, bytes over their whole range."""
    spread = dict(feed)
    for name, array in feed.items():
        if array.dtype.kind == "f":
            spread[name] = (array * 4 - 2).astype(array.dtype)
        elif array.dtype in (np.uint8, np.int8):
            spread[name] = np.random.default_rng(0).integers(0, 256, array.shape).astype(array.dtype)
    return spread


def _differs(check: OutputCheck, tolerance: float) -> bool:
    return not check.max_abs_error <= max(tolerance * check.range, _TINY)


def _refuse(
    source: Source, model: Model, feed: Tensors, worst: OutputCheck, tolerance: float, progress: Progress
) -> None:
    again = source.infer(feed)
    index = [spec.name for spec in model.outputs].index(worst.output)
    repeated = compare_output(worst.output, source.infer(feed)[index], again[index])
    if _differs(repeated, tolerance):
        raise ConversionError(
            f"The original itself gives different answers to the same input: '{worst.output}' differs by "
            f"{repeated.max_abs_error:.3g} between two runs.",
            "Switch off what is random in it (dropout, noise, sampling) before saving, so that it can be compared.",
        )
    where = first_difference(source, model, feed, tolerance, progress)
    found = f" The first node that differs is {where}." if where else ""
    agreement = "" if worst.top1_agreement is None else f", top-1 agreement {100 * worst.top1_agreement:.1f} %"
    raise ConversionError(
        f"The ONNX model does not compute what the original does: output '{worst.output}' differs by up to "
        f"{worst.max_abs_error:.3g} where values reach {worst.range:.3g} (cosine similarity "
        f"{worst.cosine_similarity:.4f}{agreement}; allowed {tolerance:g} of the range).{found}",
        "Try another opset, give real samples instead of random inputs, or raise `tolerance` if this is good enough.",
    )
