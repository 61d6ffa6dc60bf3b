"""Own server: a folder with the model and a small Python service that answers the Open Inference Protocol (V2)."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._onnxruntime_providers import asked_settings
from workbench.engine import Engine
from workbench.errors import ExportError
from workbench.exporters import Contents
from workbench.model import Model, TensorSpec
from workbench.options import option
from workbench.report import describe_steps, format_estimate

REQUIRES = {"onnxruntime": "cpu"}
COMMAND = ("python", "serve.py")

_NEEDED = ("numpy", "uvicorn", "uvloop", "httptools", "msgspec")
_DATATYPES = {
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


@dataclass(frozen=True)
class Options:
    """Limits of the service."""

    body_megabytes: Annotated[
        float, option("Largest request body.", minimum=0.001, maximum=2000, unit="MB", advanced=True)
    ] = 16.0
    queue: Annotated[
        int, option("Requests in flight before it answers 503.", minimum=1, maximum=100_000, advanced=True)
    ] = 64
    request_seconds: Annotated[
        float, option("Longest time for one request.", minimum=0.1, maximum=3600, unit="s", advanced=True)
    ] = 30.0


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        ExportError: The candidate does not run on ONNX Runtime, or has tensors that the protocol cannot carry.
    """
    engine = contents.candidate.engine
    if engine.backend != "onnxruntime":
        raise ExportError(
            f"This server runs ONNX Runtime only; {contents.candidate.name} is built for {engine.backend}.",
            "Choose a candidate on ONNX Runtime.",
        )
    here = Path(__file__).parent
    code = [path for path in here.glob("*.py") if path.name != "__init__.py"]
    for path in (*code, here / "Dockerfile"):
        shutil.copyfile(path, directory / path.name)
    _copy_model(engine.model, directory / "model")
    _write_json(directory / "config.json", _config(contents, options))
    _write_json(directory / "sample_request.json", {"inputs": [_tensor(n, a) for n, a in contents.sample.items()]})
    answer = {
        "model_name": contents.name,
        "model_version": "1",
        "outputs": [_tensor(spec.name, contents.answer[spec.name]) for spec in engine.model.outputs],
    }
    _write_json(directory / "sample_response.json", answer)
    (directory / "requirements.txt").write_text(_requirements(engine), encoding="utf-8")
    readme = Template((here / "README.md").read_text(encoding="utf-8"))
    (directory / "README.md").write_text(readme.substitute(_words(contents)), encoding="utf-8")


def _config(contents: Contents, options: Options) -> dict[str, Any]:
    engine = contents.candidate.engine
    return {
        "name": contents.name,
        "version": "1",
        "model": "model/model.onnx",
        "inputs": [_declared(spec) for spec in engine.model.inputs],
        "outputs": [_declared(spec) for spec in engine.model.outputs],
        "provider": engine.device,
        "provider_options": asked_settings(engine),
        "arena": engine.options["arena"],
        "threads": engine.options["threads"],
        "keep_float_layers": engine.options["float_layers"] == "keep",
        "graph_level": engine.options["graph_level"],
        "limits": {
            "body_bytes": int(options.body_megabytes * 1e6),
            "queue": options.queue,
            "header_seconds": 10,
            "body_seconds": 10,
            "request_seconds": options.request_seconds,
        },
    }


def _copy_model(model: Model, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(model.path, folder / "model.onnx")
    for name in model.external_files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path.parent / name, target)


def _declared(spec: TensorSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": _datatype(spec.name, spec.dtype), "shape": shape}


def _tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    datatype = _datatype(name, str(array.dtype))
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": np.ravel(array).tolist()}


def _datatype(name: str, dtype: str) -> str:
    if dtype not in _DATATYPES:
        raise ExportError(
            f"'{name}' is {dtype}, which this server's protocol does not carry.",
            f"Cast it inside the model to one of {', '.join(_DATATYPES)}.",
        )
    return _DATATYPES[dtype]


def _requirements(engine: Engine) -> str:
    """The versions that were measured, so that the service runs what was measured."""
    wheels = ("onnxruntime-gpu", "onnxruntime-openvino")
    runtime = next((name for name in wheels if _installed(name)), "onnxruntime")
    pins = {runtime: engine.versions["onnxruntime"], **{name: version(name) for name in _NEEDED}}
    return "".join(f"{name}=={pin}\n" for name, pin in pins.items())


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _words(contents: Contents) -> Mapping[str, str]:
    model, measured = contents.candidate.engine.model, contents.measured
    lines = ["not measured"]
    if measured:
        p50, p99 = format_estimate(measured.latency.p50), format_estimate(measured.latency.p99)
        lines = [f"p50 {p50} ms, p99 {p99} ms at batch {measured.latency.batch}, {measured.latency.threads} thread(s)"]
        if measured.accuracy:
            accuracy = measured.accuracy
            lines.append(f"{accuracy.metric} {100 * accuracy.value.value:.1f} % on {accuracy.samples} samples")
    steps = describe_steps(measured) if measured else ", ".join(s.transform for s in model.history) or "as loaded"
    return {
        "name": contents.name,
        "inputs": "; ".join(map(str, model.inputs)),
        "outputs": "; ".join(map(str, model.outputs)),
        "candidate": f"{contents.candidate.name} ({steps})",
        "measured": "; ".join(lines),
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
