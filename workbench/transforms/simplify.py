"""Simplification: constants computed ahead, nodes joined or left out; the answers stay the same."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from workbench.dataset import Dataset
from workbench.errors import TransformError
from workbench.jobs import Progress
from workbench.model import Model
from workbench.model_file import read_whole
from workbench.options import option
from workbench.transforms._onnx import reason_of, write_whole

REQUIRES = {"onnxslim": "cpu", "onnx": "cpu"}
NEEDS_DATASET = False


@dataclass(frozen=True)
class Options:
    """What is simplified."""

    fold_constants: Annotated[bool, option("Computes ahead what does not depend on the input.")] = True
    fuse: Annotated[bool, option("Joins nodes, e.g. BatchNormalization into the convolution before it.")] = True
    merge_duplicates: Annotated[
        bool, option("Computes once what is computed twice, and keeps equal weights once.", advanced=True)
    ] = True
    largest_constant: Annotated[
        int,
        option(
            "Leaves constants uncomputed that would be larger: folding can make a file grow.",
            minimum=1,
            maximum=2048,
            unit="MB",
            advanced=True,
        ),
    ] = 64


def apply(model: Model, options: Options, dataset: Dataset | None, target: Path, progress: Progress) -> None:
    """Writes the simplified model (onnxslim's `slim`); dynamic axes stay dynamic.

    Raises:
        TransformError: onnxslim cannot work with this model.
    """
    import onnxslim

    skipped = {
        "constant_folding": not options.fold_constants,
        "graph_fusion": not options.fuse,
        "subexpression_elimination": not options.merge_duplicates,
        "weight_tying": not options.merge_duplicates,
    }
    progress(0.1, "reading the model")
    proto = read_whole(model.path)
    progress(0.3, "simplifying")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflow in what it computes ahead happens in the model as well
            slim = onnxslim.slim(
                proto,
                skip_optimizations=[name for name, skip in skipped.items() if skip],
                size_threshold=options.largest_constant * 2**20,
            )
    except Exception as error:  # it raises whatever its graph library meets
        raise TransformError(
            f"onnxslim cannot simplify {model.name}: {reason_of(error)}.",
            "Try it without fuse or fold_constants, or use the model as it is.",
        ) from error
    progress(0.8, "writing the model")
    write_whole(slim, target)
