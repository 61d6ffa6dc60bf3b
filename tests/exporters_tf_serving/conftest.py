"""One package and one stand-in for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exporters_tf_serving.serving import BATCHED, contents_of, serving
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters.tf_serving import Options, export
from workbench.model import Model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, digits: Model, evaluation: Dataset) -> Path:
    """The bundled digits, with batching; making it takes onnx2tf some seconds."""
    folder = tmp_path_factory.mktemp("package")
    candidate = Candidate("as it is", build_engine(digits))
    export(contents_of(candidate, evaluation.take(1), **BATCHED), Options(version=4, served_versions=2), folder)
    return folder


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[dict[str, Any]]:
    with serving(package) as about:
        yield about
