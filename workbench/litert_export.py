"""Makes a .tflite file of a PyTorch module with litert-torch, which lives in an environment of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench import jobs
from workbench.backends._litert_python import find_packages, run_script
from workbench.dataset import Dataset
from workbench.engine import BuildLog, unheard
from workbench.errors import BuildError, DatasetError, MissingDependencyError, ModelError, OptionsError
from workbench.jobs import Progress, silent
from workbench.workspace import replacing, writing

VARIABLE = "LITERT_TORCH_PYTHON"

_SCRIPT = Path(__file__).with_name("_litert_torch.py")
_PACKAGES = {
    "litert_torch": ("litert-torch",),
    "ai_edge_quantizer": ("ai-edge-quantizer",),
    "torch": ("torch",),
    "ai_edge_litert": ("ai-edge-litert",),
}
_MAKE_ONE = (
    "Make one: python -m venv litert-torch-env && litert-torch-env/bin/pip install litert-torch ai-edge-quantizer; "
    f"then give its litert-torch-env/bin/python, or set {VARIABLE} to it."
)


@dataclass(frozen=True)
class LitertFile:
    """A .tflite file and how near it is to the module that it was made of.

    Attributes:
        path: The file; `load_model` reads it.
        size_bytes: Its size.
        max_abs_errors: By output, in order, the largest difference from PyTorch on the first batch.
        ranges: By output, the largest absolute value that PyTorch gave.
        phases: Seconds of each phase: `start`, `module`, `litert_torch`, `quantizer`.
        versions: Of litert-torch, torch and what else decides the file.
    """

    path: Path
    size_bytes: int
    max_abs_errors: tuple[float, ...]
    ranges: tuple[float, ...]
    phases: Mapping[str, float]
    versions: Mapping[str, str]


def export_litert(
    factory: str,
    weights: str | Path | None,
    inputs: Sequence[str],
    target: str | Path,
    *,
    python: str = "",
    arguments: str = "",
    int8: Literal["dynamic", "static"] | None = None,
    samples: Dataset | None = None,
    progress: Progress = silent,
    log: BuildLog = unheard,
) -> LitertFile:
    """Converts a PyTorch module with litert-torch, in a subprocess of another Python.

    Sizes are fixed in the file: litert-torch 0.10 fails on a free batch of convolutions. The layout stays PyTorch's.

    Args:
        factory: Function that builds the module: `package.module:function` or `file.py:function`. It runs.
        weights: A file of `torch.save(module.state_dict(), …)` or a .safetensors file; None for those that the factory
            gives.
        inputs: What the module takes, in the order and with the names of its parameters, e.g.
            `image float32[1, 3, 224, 224]`; a named axis has the size 1, or the one behind it (`batch=8`).
        target: The .tflite file to write.
        python: Path of a Python that has litert-torch; the one that `LITERT_TORCH_PYTHON` names if empty.
        arguments: Keyword arguments of the factory as a JSON object.
        int8: `dynamic` keeps weights in INT8 and quantizes activations as they come; `static` quantizes both, by the
            ranges seen on the samples, inputs and outputs included; None keeps float32.
        samples: What to calibrate and to compare with, an array per input; random values are compared if None.
        progress: Called with the share done and a short text; may raise to cancel.
        log: Called with each line that litert-torch prints.

    Raises:
        MissingDependencyError: No such environment is named, or it lacks a package.
        BuildError: litert-torch fails, or the file computes something else.
        OptionsError: The inputs or arguments cannot be read, or the Python cannot be started.
        DatasetError: Static quantization has no samples, or they lack an input.
        ModelError: The target exists already.
        WorkspaceError: The target cannot be written.
    """
    target = Path(target).expanduser().absolute()
    python = python or os.environ.get(VARIABLE, "")
    request: dict[str, Any] = {
        "factory": _absolute(factory),
        "arguments": _arguments(arguments),
        "weights": str(Path(weights).expanduser().absolute()) if weights else "",
        "inputs": _described(inputs),
        "int8": int8 or "",
    }
    _check_samples(samples, int8, [entry["name"] for entry in request["inputs"]])
    versions = _versions(python, need_quantizer=bool(int8))
    if target.exists():
        raise ModelError(f"{target} exists already, and nothing is overwritten.", "Choose another name or folder.")
    with writing(target), replacing(target) as made:
        result = jobs.run_watched(
            _export, python, request, samples, made, versions["litert_torch"], progress=progress, watch=log
        )
    return LitertFile(
        path=target,
        size_bytes=target.stat().st_size,
        max_abs_errors=tuple(output["max_abs_error"] for output in result["outputs"]),
        ranges=tuple(output["range"] for output in result["outputs"]),
        phases=result["phases"],
        versions=versions,
    )


def _export(
    python: str,
    request: Mapping[str, Any],
    samples: Dataset | None,
    target: Path,
    version: str,
    *,
    progress: Progress,
    tell: Callable[[str], object],
) -> Mapping[str, Any]:
    """Runs in a worker, which takes the other Python along when it is ended."""
    with tempfile.TemporaryDirectory() as scratch:
        made, kept = Path(scratch) / "model.tflite", Path(scratch) / "samples.npz"
        if samples is not None:
            arrays: dict[str, Any] = {entry["name"]: samples.inputs[entry["name"]] for entry in request["inputs"]}
            np.savez(kept, **arrays)
        progress(0.1, f"converting with litert-torch {version}")
        whole = {**request, "target": made, "samples": str(kept) if samples is not None else ""}
        outcome = run_script(python, _SCRIPT, whole, Path(scratch), tell)
        if outcome.code or "problem" in outcome.result or not made.is_file():
            kind, said = outcome.result.get("kind", ""), " ".join(str(outcome.result.get("problem", "")).split())
            why = f"{kind}: {said}"[:400].strip(": .") or f"it ended with code {outcome.code}"
            raise BuildError(
                f"litert-torch {version} cannot convert what {request['factory']} builds: {why}.",
                "Check the factory and the inputs; where it names an operator, replace that layer.",
                "\n".join(outcome.lines),
            )
        target.write_bytes(made.read_bytes())
    return outcome.result


def _absolute(factory: str) -> str:
    place, _, function = factory.rpartition(":")
    if not place or not function:
        raise OptionsError(
            f"`factory` is '{factory}', which names no function in a module.",
            "Write `package.module:function` or `folder/file.py:function`.",
        )
    return f"{Path(place).expanduser().absolute()}:{function}" if place.endswith(".py") else factory


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise OptionsError(f"`arguments` is no JSON object: {error}.", 'Write it like {"classes": 10}.') from None
    return found


def _described(inputs: Sequence[str]) -> list[dict[str, Any]]:
    from workbench.importers.pytorch.inputs import EXAMPLE, parse_input

    if not inputs:
        raise OptionsError("`inputs` does not say what the module takes.", f"Write it like '{EXAMPLE}'.")
    parsed = [parse_input(text) for text in inputs]
    return [
        {"name": entry.name, "dtype": entry.dtype, "shape": [size or 1 for _, size in entry.axes]} for entry in parsed
    ]


def _check_samples(samples: Dataset | None, int8: str | None, names: Sequence[str]) -> None:
    if samples is None:
        if int8 == "static":
            raise DatasetError(
                "Static INT8 needs samples to see the ranges of activations, and none were given.",
                "Give about 100 typical inputs as `samples`, or use int8='dynamic'.",
            )
    elif missing := [name for name in names if name not in samples.inputs]:
        raise DatasetError(
            f"{samples.name} lacks {', '.join(missing)}.", "Give an array for each input, under the input's name."
        )


def _versions(python: str, *, need_quantizer: bool) -> dict[str, str]:
    if not python:
        raise MissingDependencyError(
            "litert-torch needs an environment of its own, since its versions do not go with the workbench's, and none "
            "is named.",
            _MAKE_ONE,
        )
    found = find_packages(python, _PACKAGES)
    needed = [name for name in _PACKAGES if need_quantizer or name != "ai_edge_quantizer"]
    if missing := [name.replace("_", "-") for name in needed if not found[name]]:
        raise MissingDependencyError(f"{python} lacks {', '.join(missing)}.", _MAKE_ONE)
    return {name: number for name, number in found.items() if number}
