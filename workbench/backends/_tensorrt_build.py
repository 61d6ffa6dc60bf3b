"""Builds a TensorRT plan for a GPU that need not be there; runs in a subprocess."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from workbench.backends._tensorrt_log import parse_layers
from workbench.engine import Layer
from workbench.errors import ModelError
from workbench.jobs import Progress
from workbench.model import Model

_LISTED = 5  # nodes named in a refusal
_NO_DRIVER = "cudaError 35"  # what every error brings along where there is no driver


def build_plan(
    model: Model, target: str, batches: tuple[int, int], plan: Path, progress: Progress
) -> tuple[Layer, ...]:
    """Parses the model and writes the plan.

    Args:
        model: What to build.
        target: Compute capability, e.g. `SM89`.
        batches: The batch to make fastest, and the largest, of a dynamic first axis.
        plan: Where to write it.
        progress: Called with the share done and a short text.

    Returns:
        The layers of the plan, without times.

    Raises:
        ModelError: TensorRT cannot parse or build the model.
    """
    import tensorrt_rtx as trt

    log = _make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    progress(0.1, "parsing the model")
    # What is no model parses as well, to a network of no layers.
    if not parser.parse_from_file(str(model.path)) or not network.num_layers:
        raise _refusal(model, trt, parser)
    settings = builder.create_builder_config()
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    if profile := _optimization_profile(model, builder, network, batches):
        settings.add_optimization_profile(profile)
    progress(0.3, f"building for {target}")
    serialized = builder.build_serialized_network(network, settings)
    if serialized is None:
        raise ModelError(
            f"TensorRT-RTX {trt.__version__} cannot build {model.name} for {target}: {log.reason()}.",
            "Choose another target or precision, or keep what it names out of the quantized part.",
        )
    plan.write_bytes(serialized)
    return parse_layers(text for _, text in log.messages)


def load_plan(path: Path) -> str:
    """Loads a plan onto the GPU; returns why that failed, empty if it did not."""
    import tensorrt_rtx as trt

    log = _make_log(trt)
    return "" if trt.Runtime(log).deserialize_cuda_engine(path.read_bytes()) else log.reason()


def _plain(text: str) -> str:
    """What TensorRT says, without the places in its source and the calls that it puts around."""
    text = re.sub(r"^\w+::\w+: Error Code \d+: [\w ]+ \((?:\[\S+ \w+\] )?", "", " ".join(text.split()))
    return re.sub(r"\.? In \w+ at /\S+?:\d+\)$", "", text)[:400].rstrip(".")


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT says; its reasons are nowhere else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((severity, text))

        def reason(self) -> str:
            errors = [text for severity, text in self.messages if severity <= trt.ILogger.Severity.ERROR]
            told = [text for text in errors if _NO_DRIVER not in text]
            if errors and not told:
                return "there is no NVIDIA driver"
            return _plain(told[0]) if told else "it does not say why"

    return Log()


def _optimization_profile(model: Model, builder: Any, network: Any, batches: tuple[int, int]) -> Any:
    """Which sizes a dynamic first axis may have; None if there is no such axis."""
    profile = None
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise ModelError(
                f"{model.name} has an input '{tensor.name}' with other dynamic axes than the batch: {list(shape)}.",
                "Export it with fixed sizes behind the first axis.",
            )
        if -1 in shape:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(tensor.name, (1, *shape[1:]), (batches[0], *shape[1:]), (batches[1], *shape[1:]))
    return profile


def _refusal(model: Model, trt: Any, parser: Any) -> ModelError:
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    if not errors:
        return ModelError(
            f"TensorRT-RTX {trt.__version__} finds nothing to run in {model.name}.",
            "Check that the file is a complete ONNX model.",
        )
    listed = []
    for error in errors[:_LISTED]:
        said = [line for line in error.desc().splitlines() if line.strip() and _NO_DRIVER not in line]
        listed.append(f"{error.node_operator()} '{error.node_name()}' ({_plain(said[-1]) if said else 'invalid'})")
    more = f" and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
    return ModelError(
        f"TensorRT-RTX {trt.__version__} cannot parse {model.name}: {'; '.join(listed)}{more}.",
        "Export the model with operators and types that it has; quantized models need signed activations and biases "
        "in float.",
    )
