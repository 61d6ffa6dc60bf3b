"""What the canary's tests with real proxies start from: exported versions, made once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.canary_front import Front, standing
from tests.serving.proxies import export_version
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Package, export_package
from workbench.model import Model


@pytest.fixture(scope="session")
def looper_sample() -> Dataset:
    return Dataset({"x": np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)})


@pytest.fixture(scope="session")
def digits_versions(
    tmp_path_factory: pytest.TempPathFactory, digits: Model, evaluation: Dataset
) -> tuple[Package, Package]:
    """The digits package, exported as version 1 and as version 2."""
    folder, candidate = tmp_path_factory.mktemp("digits"), Candidate("as it is", build_engine(digits))
    first, second = (
        export_package(candidate, "server", {"version": version}, sample=evaluation, directory=folder / version)
        for version in ("1", "2")
    )
    return first, second


@pytest.fixture(scope="session")
def looper(tmp_path_factory: pytest.TempPathFactory, looper_sample: Dataset) -> Package:
    return export_version(tmp_path_factory.mktemp("looper"), "1", looper_sample)


@pytest.fixture
def digits_front(
    tmp_path: Path, digits_versions: tuple[Package, Package], evaluation: Dataset
) -> Callable[..., contextlib.AbstractContextManager[Front]]:
    body = (digits_versions[0].directory / "sample_request.json").read_bytes()

    def stand(proxy: str, **options: Any) -> contextlib.AbstractContextManager[Front]:
        return standing(tmp_path, proxy, *digits_versions, body, evaluation, **options)

    return stand
