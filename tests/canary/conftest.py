"""Versions of a model that run as exported services, one stable and one canary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.serving.proxies import Service, export_version, free_port, running_service
from workbench.dataset import Dataset
from workbench.exporters import Package


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return Dataset({"x": np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Package:
    return export_version(tmp_path_factory.mktemp("good"), "2", sample)


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Iterator[str]:
    package = export_version(tmp_path_factory.mktemp("stable"), "1", sample)
    with running_service(package, free_port()) as service:
        yield service.address


@pytest.fixture
def canary(good: Package) -> Iterator[Service]:
    with running_service(good, free_port()) as service:
        yield service
