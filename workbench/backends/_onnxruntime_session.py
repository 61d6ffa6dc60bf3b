"""Opens and runs sessions of ONNX Runtime, and puts its refusals into words."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.backends._cuda import DeviceTimer
from workbench.backends._onnxruntime_providers import CPU, ON_CUDA, provider_settings
from workbench.engine import Engine, Tensors
from workbench.errors import EngineError, ModelError, ProviderError

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
        self._threads = engine.options["threads"]
        self._bound_to = "cuda" if engine.device in ON_CUDA else "cpu"
        self._binding = engine.options.get("binding", False)
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
            outputs = self._session.run(self._outputs, dict(feed))
        except Exception as error:  # onnxruntime raises its own C++ exception classes
            raise self._refused(str(error)) from error
        return dict(zip(self._outputs, outputs, strict=True))

    def bind(self, feed: Tensors) -> Callable[[], Any]:
        """`session.run` on the feed: it copies no input and gives new arrays.

        With the option `binding`, `session.run_with_iobinding`: inputs lie where the provider reads them, and outputs
        stay where it writes them, in the binding (`call.args[0].get_outputs()`).
        """
        if not self._binding:
            return functools.partial(self._session.run, self._outputs, dict(feed))
        ort, binding = load_runtime(), self._session.io_binding()
        for name, array in feed.items():
            if self._bound_to == "cpu":
                binding.bind_cpu_input(name, np.ascontiguousarray(array))  # it keeps the array, and copies nothing
            else:
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self._bound_to, 0))
        for name in self._outputs:
            binding.bind_output(name, self._bound_to)
        return functools.partial(self._session.run_with_iobinding, binding)

    def submit(self, feed: Tensors) -> Future[dict[str, NDArray[Any]]]:
        """`session.run_async`: the model is run by a thread inside the session, of which there is one less than asked.

        Raises:
            EngineError: The session has no such thread.
        """
        if self._threads < 2:
            raise EngineError(
                f"ONNX Runtime runs {self._model} asynchronously on the threads that it adds to the caller's own, and "
                "with 1 thread there are none.",
                "Set the engine's threads to 2 or more, or let several threads call the runner.",
            )
        future: Future[dict[str, NDArray[Any]]] = Future()
        kept = dict(feed)  # which the session reads from another thread
        self._session.run_async(self._outputs, kept, self._finish, (future, kept))
        return future

    def _finish(self, outputs: list[Any], request: tuple[Future[dict[str, NDArray[Any]]], Tensors], said: str) -> None:
        future, _ = request
        if said:
            future.set_exception(self._refused(said))
        else:
            future.set_result(dict(zip(self._outputs, outputs, strict=True)))

    def _refused(self, said: str) -> ModelError:
        return ModelError(
            f"ONNX Runtime cannot run {self._model}: {reason(said)}.",
            "Check the inputs' types, shapes and values against what the model takes.",
        )


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
        ProviderError: The provider refuses its options, or cannot be set up.
    """
    ort = load_runtime()
    ort.set_default_logger_severity(3)  # its warnings about the machine (no GPU found) are not the user's
    options = ort.SessionOptions()
    options.log_severity_level = 3  # also of the warning that an optimized graph belongs to this machine
    options.intra_op_num_threads = engine.options["threads"]
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = engine.options.get("arena", True)
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
    providers = [(engine.device, dict(provider_settings(engine, stream)))]
    providers += [] if engine.device == CPU else [(CPU, {})]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is checked right after, and refused in words
            return ort.InferenceSession(
                str(engine.path),
                options,
                providers=providers,
                disabled_optimizers=disabled_optimizers(engine),
                enable_fallback=0,  # it would try again on the CPU, and keep the reason to itself
            )
    except (RuntimeError, ValueError) as error:  # of setting a provider up; of the model it raises classes of its own
        if engine.device == CPU:
            raise ModelError(*explain_refusal(engine.model.name, str(error))) from error
        raise ProviderError(
            f"{engine.device} cannot be set up for {engine.model.name}: {reason(str(error))}.",
            "Check provider_options, and the driver and its libraries; or ask for CPUExecutionProvider.",
        ) from error
    except Exception as error:
        raise ModelError(*explain_refusal(engine.model.name, str(error))) from error


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


def explain_refusal(model: str, said: str) -> tuple[str, str]:
    """What a refusal of ONNX Runtime means, and how to mend it, in a sentence each."""
    runtime, told = f"ONNX Runtime {load_runtime().__version__}", reason(said)
    for pattern, words, remedy in _REFUSALS:
        if found := re.search(pattern, told):
            parts = found.groups()
            return f"{model} {words.format(*parts, runtime=runtime)}.", remedy.format(*parts)
    remedy = "Export the model with an opset that it knows, or use another backend."
    return f"{runtime} refuses {model}: {told}.", remedy


def reason(said: str) -> str:
    """What ONNX Runtime says, without the places in its source that it puts before."""
    text = " ".join(said.split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Load model from .*? failed:\s*", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ .*?\)>?(?: const)?(?: \[with .*?\])? (?=[A-Z])", "", text)
    return "".join(letter for letter in text[:400] if letter.isprintable()).rstrip(".")


def _placement(session: onnxruntime.InferenceSession) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)
