"""Runs onnx2tf on a model, for what takes TensorFlow's formats: which packages that needs, and why it gave up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.backends._litert_prepare import prepare
from workbench.backends._litert_python import Outcome, find_packages, run_script
from workbench.errors import BuildError, MissingDependencyError
from workbench.graph.shapes import STANDARD, operator_name
from workbench.model import Model
from workbench.skeleton import read_skeleton

SCRIPT = Path(__file__).with_name("_litert_onnx2tf.py")
# By module that onnx2tf imports, the packages that bring it.
CONVERTER = {
    "onnx2tf": ("onnx2tf",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "tf_keras": ("tf_keras",),
    "onnx_graphsurgeon": ("onnx_graphsurgeon",),
    "sng4onnx": ("sng4onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "ai_edge_litert": ("ai-edge-litert",),
    "psutil": ("psutil",),
    "requests": ("requests",),
}


def converter_versions(python: str, runtime: str, otherwise: str = "") -> dict[str, str]:
    """Versions of the converter and what it works with.

    Args:
        python: Path of the Python that has it; this one if empty.
        runtime: What runs what onnx2tf makes, for the message, e.g. `LiteRT runs .tflite files`.
        otherwise: What else may be done than install what is missing, in a clause.

    Raises:
        MissingDependencyError: Something that it needs is not installed.
        OptionsError: There is no such Python.
    """
    found = find_packages(python, CONVERTER)
    missing = [name for name, number in found.items() if not number]
    if missing:
        where = python or "this environment"
        raise MissingDependencyError(
            f"{runtime}, and onnx2tf, which makes one of an ONNX model, needs {', '.join(missing)}, which {where} "
            "lacks.",
            "Install them: pip install 'deployment-workbench[litert,tensorflow]', then pip install --no-deps tf_keras "
            f"(which would bring a second TensorFlow){otherwise}.",
        )
    return {name: found[name] for name in ("onnx2tf", "tensorflow", "tf_keras")}


def run_onnx2tf(
    model: Model,
    python: str,
    request: Mapping[str, Any],
    folder: Path,
    remedy: Callable[[Model], str],
    tell: Callable[[str], object],
) -> Outcome:
    """Converts a model with onnx2tf in a process of its own.

    Args:
        model: An ONNX model; its file is only read.
        python: Path of the Python that has onnx2tf; this one if empty.
        request: What the script is to make of it: its `target`, and in which form.
        folder: Where it may write.
        remedy: What to do where it cannot.
        tell: Called with each line that onnx2tf prints.

    Raises:
        BuildError: It cannot convert the model; the message says why, and the details are all that it printed.
    """
    copy = folder / "model.onnx"
    whole = {"model": copy, "inputs": prepare(model, copy), "folder": folder, **request}
    outcome = run_script(python, SCRIPT, whole, folder, tell)
    if outcome.code or "problem" in outcome.result or not Path(request["target"]).exists():
        title = f"onnx2tf {find_packages(python, CONVERTER)['onnx2tf']}"
        raise BuildError(
            f"{title} cannot convert {model.name}: {explain(outcome)}.", remedy(model), "\n".join(outcome.lines)
        )
    return outcome


def quantized_operators(model: Model) -> bool:
    """Whether activations are quantized in the model."""
    return any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or node.op_type.startswith("QLinear")
        for node in read_skeleton(model.path).graph.node
    )


def foreign_operators(model: Model) -> list[str]:
    """Names of the model's operators that are not ONNX's own, which onnx2tf does not know."""
    nodes = read_skeleton(model.path).graph.node
    return sorted({operator_name(node.domain, node.op_type) for node in nodes if node.domain not in STANDARD})


def explain(outcome: Outcome) -> str:
    """Why onnx2tf gave up, in words."""
    problem = re.sub(r"\x1b\[[0-9;]*m", "", str(outcome.result.get("problem", ""))).removeprefix("WARNING: ")
    lines = outcome.lines
    if lacking := list(dict.fromkeys(re.findall(r"'tf\.(\w+)' op is neither", problem))):
        return f"TensorFlow Lite has no kernel for what it makes of it: TensorFlow's {', '.join(lacking)}"
    said = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    node = next((text.partition(":")[2].strip() for text in said if text.startswith("onnx_op_name:")), "")
    # What it says of its own files and flags.
    advice = r"(input_)?onnx_|The trace log|Read this|Alternatively|If the input OP|Also, for models"
    told = [text for text in said if not re.match(advice, text)]
    first = next((text for text in (*told, *problem.splitlines()) if text.strip()), "")
    kind = str(outcome.result.get("kind", ""))
    why = re.sub(r"\s+", " ", first)[:300].rstrip(". ") or kind or f"it ended with code {outcome.code}"
    return f"{why} (node '{node}')" if node else why
