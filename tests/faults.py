"""A real backend that goes wrong on demand, found by the measuring subprocess like any other package's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.engine import Engine
from workbench.model import Model

Faulty = Callable[[str], Engine]


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Model) -> Faulty:
    """An engine on that backend: what it does wrong is `crashes`, `hangs`, `leaks`, `nan`, `late` or `slows down`."""
    place = tmp_path / "their_package"
    metadata = place / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("faulty_backend.py"), place / "faulty_backend.py")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[workbench.backends]\nfaulty = faulty_backend\n")
    monkeypatch.syspath_prepend(place)
    return lambda fault: Engine(tiny, "faulty", {"fault": fault}, "here", tiny.path)
