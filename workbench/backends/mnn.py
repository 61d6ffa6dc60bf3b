"""MNN, a small runtime for processors of phones and computers."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from workbench import jobs
from workbench.artifact import Built, build_artifact, check_file
from workbench.backends._host import physical_cores
from workbench.backends._mnn_convert import convert, refused_operators
from workbench.backends._mnn_layers import optimized as optimized
from workbench.backends._mnn_layers import profile as profile
from workbench.backends._mnn_session import X86, SessionRunner, foreign_tensors
from workbench.engine import BuildCheck, BuildLog, Engine, unheard
from workbench.errors import ModelError, WorkerError
from workbench.graph.quantized import is_quantizing
from workbench.jobs import Progress
from workbench.model import Model
from workbench.options import option, to_builtins
from workbench.skeleton import read_skeleton
from workbench.support import Unsupported

REQUIRES = {"MNN": "mnn"}

_FILE = "model.mnn"
_BRANCHING = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class Options:
    """How the model is converted and run."""

    threads: Annotated[
        int, option("Threads for one inference; 0 takes every core.", minimum=0, maximum=256, unit="threads")
    ] = 0
    precision: Annotated[
        Literal["normal", "high", "low"],
        option(
            "What float layers compute in. MNN means low as float16 on ARM (not tried here); on the x86 processor that "
            "it was tried on, all three gave the same bits. The runner says which type it is.",
        ),
    ] = "normal"
    weight_bits: Annotated[
        Literal[32, 16, 8, 4],
        option(
            "Bits of a weight in the file. Fewer make it smaller, not faster: MNN computes with float32 weights all "
            "the same. The build says how far the answers move.",
            unit="bits",
            advanced=True,
        ),
    ] = 32


def devices() -> tuple[str, ...]:
    """The processor: the package holds no more of MNN."""
    return ("CPU",)


def checks(model: Model, options: Options) -> tuple[BuildCheck, ...]:
    """Says what MNN is known to refuse or to compute wrongly, and which options change nothing here."""
    found = []
    if fault := _fault(model):
        found.append(BuildCheck("refused", *fault))
    if options.precision == "low" and platform.machine() in X86:
        found.append(
            BuildCheck(
                "doubt",
                "On an x86 processor with AVX512-BF16, `low` changed no bit of MNN's answers: it is likely "
                "to be float32 here too. The runner will say.",
                "Take OpenVINO for bfloat16, or an INT8 model on ONNX Runtime or OpenVINO.",
            )
        )
    if options.weight_bits != 32:
        found.append(
            BuildCheck(
                "doubt",
                f"Weights in {options.weight_bits} bits make the file smaller, not the inference faster.",
                "Compare the accuracy before you keep it.",
            )
        )
    return tuple(found)


def build(model: Model, options: Options, progress: Progress, log: BuildLog = unheard) -> Engine:
    """Converts the model in a subprocess and keeps it if it computes what ONNX says.

    Raises:
        ModelError: MNN cannot convert the model, or makes something else of it.
    """
    if fault := _fault(model):
        raise ModelError(*fault)
    options = dataclasses.replace(options, threads=options.threads or physical_cores())
    versions = {"mnn": version("mnn")}

    def make(folder: Path) -> Built:
        raw = Engine(model, "mnn", to_builtins(options), "CPU", folder / _FILE, versions)
        try:
            return jobs.run_watched(convert, raw, progress=progress, watch=log)
        except WorkerError as error:
            raise ModelError(
                f"MNN {versions['mnn']} cannot run {model.name}: {error.message}",
                "Use another backend for this model.",
            ) from error

    return build_artifact(model, "mnn", options, "CPU", versions, _FILE, make, progress)


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[SessionRunner]:
    """Opens a session.

    Raises:
        EngineError: The engine's file is damaged.
        ModelError: MNN refuses the model.
    """
    check_file(engine)
    yield SessionRunner(engine)


def unsupported(model: Model) -> tuple[Unsupported, ...]:
    """Converts the model to hear which operators MNN does not have."""
    if _fault(model):
        return ()
    return refused_operators(model)


def _fault(model: Model) -> tuple[str, str] | None:
    """What no conversion is tried for: what is the matter, and what to do."""
    name = f"MNN {version('mnn')}"
    if foreign := foreign_tensors(model):
        return f"{model.name} has {', '.join(foreign)}, a type that {name} cannot be given.", "Use another backend."
    operators = {node.op_type for node in read_skeleton(model.path).graph.node}
    if quantizing := sorted(name for name in operators if is_quantizing(name)):
        return (
            f"{model.name} is quantized ({', '.join(quantizing)}), on which the converter of {name} breaks, or makes "
            "something else of it.",
            "Build the float model, with fewer `weight_bits` for a smaller file; for INT8 take ONNX Runtime or "
            "OpenVINO. MNN's own quantizer is no way out: it ends by force.",
        )
    if branching := sorted(operators & set(_BRANCHING)):
        return (
            f"{model.name} decides while it runs what to compute ({', '.join(branching)}), which MNN's sessions do "
            "not do.",
            "Use another backend.",
        )
    return None
