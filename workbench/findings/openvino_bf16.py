"""OpenVINO computing in bfloat16 although nobody asked for it."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.backends import predict
from workbench.engine import Engine
from workbench.findings.context import Context, Finding, nodes_of
from workbench.findings.trials import try_options
from workbench.findings.words import count_of
from workbench.measure.output_error import output_error

_SAMPLES = 64


def find(context: Context) -> Iterator[Finding]:
    """Looks for layers in bfloat16 where no precision was asked for, and measures the model in float32."""
    engine = context.row.candidate.engine
    if engine.backend != "openvino" or engine.options["precision"] != "auto":
        return
    layers = [entry for entry in context.profile.layers if entry.layer.precision == "bfloat16"]
    if not layers:
        return
    trial = try_options(context, "float32", {"precision": "float32"})
    yield Finding(
        rule="openvino_bf16",
        candidate=context.row.name,
        what=f"OpenVINO computes {count_of(len(layers), 'layer')} in bfloat16, which nobody asked for.",
        evidence=f"{trial.describe('in float32')}.{_difference(context, trial.engine)}",
        milliseconds=abs(trial.saved_ms),
        why="On processors with bfloat16 instructions OpenVINO rounds a float32 model to 8 significant bits by itself. "
        "So a part of what looks like the backend's speed is lower precision, and outputs differ from the original's.",
        remedy="Keep it if accuracy holds, but say so (precision='bfloat16'); or set precision='float32' to compare "
        "like with like.",
        step=trial.step,
        nodes=nodes_of(layers),
    )


def _difference(context: Context, exact: Engine) -> str:
    """What the rounding does to the first output, in words; empty without samples."""
    if context.dataset is None:
        return ""
    samples = context.dataset.take(max(_SAMPLES, exact.model.fixed_batch or 1))
    name = exact.model.outputs[0].name
    before, after = (
        predict(engine, samples, workspace=context.workspace, progress=context.progress)[name]
        for engine in (exact, context.row.candidate.engine)
    )
    error = output_error(before, after)
    if error is None or error.max_abs_error is None:
        return ""
    ratio = "" if error.sqnr_db is None else f" (SQNR {error.sqnr_db:.0f} dB)"
    return f" The outputs differ from float32's by up to {error.max_abs_error:.2g}{ratio} on {len(samples)} samples."
