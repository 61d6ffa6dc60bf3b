"""LiteRT (TensorFlow Lite) with XNNPACK: runs .tflite files, and models that onnx2tf can make into one."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from workbench import jobs
from workbench.artifact import Built, build_artifact, check_file
from workbench.backends._host import physical_cores
from workbench.backends._litert_build import QUANTIZED, Converted, convert, keep_original
from workbench.backends._litert_session import DEVICE, ENDS, FILE, InterpreterRunner
from workbench.backends._onnx2tf import converter_versions, foreign_operators, quantized_operators
from workbench.engine import BuildCheck, BuildLog, Engine, unheard
from workbench.errors import OptionsError, WorkbenchError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins
from workbench.workspace import Workspace, read_json, write_json

REQUIRES = {"ai_edge_litert": "litert"}

_RECORD = "conversion.json"


@dataclass(frozen=True)
class Options:
    """How the .tflite file is made and run."""

    threads: Annotated[
        int, option("Threads inside one operator; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    quantize: Annotated[
        Literal["none", "float16", "dynamic"],
        option(
            "Weights of the file that is made of an ONNX model: as they are, in float16 (half the size), or in INT8 "
            "with activations quantized as they come (dynamic)."
        ),
    ] = "none"
    kernels: Annotated[
        Literal["xnnpack", "builtin"],
        option("XNNPACK where it has the operator, or LiteRT's own kernels alone.", advanced=True),
    ] = "xnnpack"
    converter: Annotated[
        str,
        option(
            "Python of another environment that has onnx2tf, for models that are no .tflite file; empty is this one.",
            advanced=True,
            example="onnx2tf-env/bin/python",
        ),
    ] = ""


def devices() -> tuple[str, ...]:
    """The processor: LiteRT's Python package brings no other accelerator that needs nothing besides."""
    return (DEVICE,)


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Takes the .tflite file that the model was imported from, or makes one with onnx2tf in a subprocess.

    The conversion is kept apart from the engine: the same file serves any number of threads.

    Raises:
        BuildError: onnx2tf cannot convert it; the message says why.
        ModelError: The file computes something else than the model.
        MissingDependencyError: onnx2tf or something that it needs is not installed.
        OptionsError: A file that is run as it is shall be quantized.
    """
    versions = {"ai_edge_litert": version("ai-edge-litert"), **_source_versions(model, options)}
    key = {"model": model.sha256, "quantize": options.quantize, "versions": versions}

    def fill(folder: Path) -> None:
        if model.original is not None:
            record = jobs.run(keep_original, model, folder, progress=progress)
        else:
            record = jobs.run_watched(
                convert, model, options.converter, options.quantize, folder, progress=progress, watch=log
            )
        write_json(folder / _RECORD, record)

    def make(folder: Path) -> Built:
        made = Workspace().artifact("conversions", key, fill)
        for name in (FILE, ENDS):
            shutil.copyfile(made / name, folder / name)
        record = read_json(made / _RECORD, Converted)
        return Built(record.phases, record.notes)

    chosen = Options(**{**to_builtins(options), "threads": options.threads or physical_cores()})
    return build_artifact(model, "litert", chosen, DEVICE, versions, FILE, make, progress)


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """What is known before a conversion is tried; only trying tells the rest."""
    if model.original is not None:
        return (BuildCheck("ok", f"{model.name} runs as the .tflite file that it was imported from."),)
    try:
        versions = _converter_versions(options)
    except WorkbenchError as error:
        return (BuildCheck("refused", error.message, error.remedy),)
    found = [
        BuildCheck(
            "doubt",
            f"onnx2tf {versions['onnx2tf']} makes the .tflite file; it fails on some models, which only trying tells.",
        )
    ]
    if quantized_operators(model):
        found.append(BuildCheck("refused", f"{model.name} is quantized, which onnx2tf does not convert.", QUANTIZED))
    if custom := foreign_operators(model):
        found.append(
            BuildCheck(
                "refused",
                f"{model.name} uses operators that onnx2tf does not know: {', '.join(custom)}.",
                "Export the model with ONNX's own operators, or use a backend that has these.",
            )
        )
    return tuple(found)


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[InterpreterRunner]:
    """Opens the file in LiteRT, without TensorFlow.

    Raises:
        EngineError: The file is gone, was cut short or changed.
        ModelError: LiteRT cannot open it.
    """
    check_file(engine)
    yield InterpreterRunner(engine)


def _source_versions(model: Model, options: Options) -> dict[str, str]:
    """What decides the file besides the model: the versions of the converter, or the content of the original."""
    if model.original is None:
        return _converter_versions(options)
    if options.quantize != "none":
        raise OptionsError(
            f"litert cannot quantize {model.name}: it runs the .tflite file that it was imported from, as it is.",
            "Leave `quantize` at none, or make another file (TensorFlow's converter, export_litert).",
        )
    with model.original.open("rb") as stream:
        return {"original": hashlib.file_digest(stream, "sha256").hexdigest()[:16]}


def _converter_versions(options: Options) -> dict[str, str]:
    otherwise = "; or name an environment's Python that has them as `converter`"
    return converter_versions(options.converter, "LiteRT runs .tflite files", otherwise)
