"""ONNX files, with or without external data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from workbench.model import Model, read_model
from workbench.options import option

SUFFIXES = (".onnx",)
REQUIRES = {"onnx": "cpu"}


@dataclass(frozen=True)
class Options:
    """How to read the file."""

    name: Annotated[str, option("Name in tables and packages; the file's own name if empty.")] = ""


def load(source: Path, options: Options) -> Model:
    """Checks the file and describes it; weights in external files are not read."""
    return read_model(source, name=options.name)
