"""Opens and runs sessions of ONNX Runtime, and puts its refusals into words."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends._cuda_events import DeviceTimer
from workbench.engine import Engine, Tensors
from workbench.errors import ModelError, ProviderError

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray


def load_runtime() -> Any:
    """Imports onnxruntime, which reports its use to its makers unless it finds this variable by then."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class SessionRunner:
    """A live ONNX Runtime session."""

    def __init__(
        self, session: onnxruntime.InferenceSession, engine: Engine, device_timer: DeviceTimer | None = None
    ) -> None:
        self._session = session
        self._timer = device_timer
        self._outputs = [spec.name for spec in engine.model.outputs]
        self._model = engine.model.name
        self._placement = _placement(session)
        # A model of constants alone has no node left once the session is made, and may run anywhere.
        if not self._placement.get(engine.device, engine.device in session.get_providers() and not self._placement):
            ran = ", ".join(f"{count} nodes on {name}" for name, count in self._placement.items())
            raise ProviderError(
                f"{engine.model.name} was to run on {engine.device}, but ONNX Runtime placed {ran or 'no node'}.",
                "Check the driver and its libraries (ONNX Runtime falls back silently), or ask for the provider "
                "that runs.",
            )

    @property
    def placement(self) -> Mapping[str, int]:
        """Nodes of the optimized graph that each provider runs."""
        return self._placement

    @property
    def device_timer(self) -> Callable[[Callable[[], object]], float] | None:
        """What measures a call's time on the device, ms; None where there is no device apart."""
        return self._timer.time if self._timer else None

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: ONNX Runtime cannot run it on these inputs.
        """
        try:
            outputs = self.bind(feed)()
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            raise ModelError(
                f"ONNX Runtime cannot run {self._model}: {_reason(error)}.",
                "Check the inputs' types, shapes and values against what the model takes.",
            ) from error
        return dict(zip(self._outputs, outputs, strict=True))

    def bind(self, feed: Tensors) -> Callable[[], Any]:
        """`session.run` on the feed: it copies no input and gives new arrays."""
        return functools.partial(self._session.run, self._outputs, dict(feed))


def disabled_optimizers(engine: Engine) -> list[str]:
    """The optimizers that would compute layers in INT8 which are to stay in float as the model has them."""
    return ["WeightBiasQuantization"] if engine.options.get("float_layers") == "keep" else []


def open_session(
    engine: Engine, *, optimized: Path | None = None, profile: Path | None = None, stream: int | None = None
) -> onnxruntime.InferenceSession:
    """Opens an engine.

    Args:
        engine: What to open.
        stream: Address of the CUDA stream to run on; its own if None.
        optimized: Where to write the graph that will really run; its big weights go into a file beside it.
        profile: Start of the name of the file that `end_profiling` writes.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    ort = load_runtime()
    ort.set_default_logger_severity(3)  # its warnings about the machine (no GPU found) are not the user's
    options = ort.SessionOptions()
    options.log_severity_level = 3  # also of the warning that an optimized graph belongs to this machine
    options.intra_op_num_threads = engine.options["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[engine.options["graph_level"]]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(engine.options["spinning"])))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    first = (engine.device, {"user_compute_stream": str(stream)}) if stream is not None else engine.device
    providers = [first, *([] if engine.device == "CPUExecutionProvider" else ["CPUExecutionProvider"])]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is checked right after, and refused in words
            return ort.InferenceSession(
                str(engine.path), options, providers=providers, disabled_optimizers=disabled_optimizers(engine)
            )
    except Exception as error:  # onnxruntime raises its own C++ exception classes
        raise _refusal(engine.model.name, f"ONNX Runtime {ort.__version__}", _reason(error)) from error


# What ONNX Runtime says, what it means, and how to mend it.
_REFUSALS = (
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "is written as ONNX IR version {0}; {runtime} knows them up to {1}",
        "Set its ir_version to {1} and save it again (onnx.load, onnx.save), or update onnxruntime.",
    ),
    (
        r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)",
        "needs opset {0} of {1}; {runtime} knows them up to {2}",
        "Export it with opset {2} or an older one, or update onnxruntime.",
    ),
    (
        r"(\S+):(\S+)\(-?\d+\) is not a registered function/op",
        "uses the operator {1} of '{0}', which {runtime} does not have",
        "Export it with standard operators in its place, or with the operator as an ONNX function.",
    ),
    (
        r"Could not find an implementation for (\S+)\((\d+)\)",
        "uses {0} of opset {1}, which {runtime} does not implement on this device, or not for its element types",
        "Export it in float32 or use another backend; where the opset is old, raise it (transform upgrade_opset).",
    ),
)


def _refusal(model: str, runtime: str, reason: str) -> ModelError:
    for pattern, words, remedy in _REFUSALS:
        if found := re.search(pattern, reason):
            parts = found.groups()
            return ModelError(f"{model} {words.format(*parts, runtime=runtime)}.", remedy.format(*parts))
    return ModelError(
        f"{runtime} refuses {model}: {reason}.", "Export the model with an opset that it knows, or use another backend."
    )


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its source that it puts before."""
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Load model from .*? failed:\s*", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ .*?\)>?(?: const)?(?: \[with .*?\])? (?=[A-Z])", "", text)
    return "".join(letter for letter in text[:400] if letter.isprintable()).rstrip(".")


def _placement(session: onnxruntime.InferenceSession) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)
