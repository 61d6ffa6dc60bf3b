"""Builds of the same, compared."""

from __future__ import annotations

import pytest

from workbench.backends import build_engine
from workbench.engine_report import rebuilds_text
from workbench.errors import EngineError
from workbench.model import Model
from workbench.rebuilds import rebuild_engine
from workbench.workspace import Workspace


def test_each_build_is_a_fresh_one_and_they_are_compared(tiny: Model, workspace: Workspace) -> None:
    builds = rebuild_engine(tiny, "tensorrt", {"targets": ["SM89"]}, times=2, workspace=workspace)

    assert len({build.engine.path for build in builds}) == 2
    assert build_engine(tiny, "tensorrt", {"targets": ["SM89"]}).path not in {build.engine.path for build in builds}
    assert [build.latency for build in builds] == [None, None]  # nothing here runs them
    assert all(build.manifest.size_bytes == build.engine.path.stat().st_size for build in builds)
    assert all(build.diff is not None for build in builds)
    text = rebuilds_text(builds)
    assert builds[0].manifest.sha256[:8] in text
    assert "build to build" in text or "same to the byte" in text
    again = rebuild_engine(tiny, "tensorrt", {"targets": ["SM89"]}, times=2, workspace=workspace)
    assert [build.manifest for build in again] == [build.manifest for build in builds]


def test_what_builds_no_files_has_nothing_to_compare(tiny: Model, workspace: Workspace) -> None:
    with pytest.raises(EngineError, match="there are no builds to compare"):
        rebuild_engine(tiny, "onnxruntime", times=2, workspace=workspace)
