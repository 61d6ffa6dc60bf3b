"""Engine files: one build for all who ask, a manifest that tells all, and nothing of a build that failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.artifact import MANIFEST, Built, build_artifact, check_file, read_manifest
from workbench.engine import Engine
from workbench.errors import Cancelled, EngineError
from workbench.jobs import Progress, silent
from workbench.model import Model
from workbench.workspace import Workspace

WAITING = "waiting for another build of the same engine"


def build(
    model: Model,
    made: list[str],
    *,
    meanwhile: Callable[[], None] = lambda: None,
    progress: Progress = silent,
    **key: Any,
) -> Engine:
    """An engine file of seven bytes; `made` grows by each build that really happens."""

    def make(folder: Path) -> Built:
        (folder / "model.plan").write_bytes(b"layers!")
        meanwhile()
        made.append("built")
        return Built({"parsing": 0.5}, ("one layer stays in float",))

    options = {"threads": 1, **key}
    return build_artifact(model, "here", options, "SM89", {"here": "1.0"}, "model.plan", make, progress)


def test_an_engine_is_built_once_and_described(tiny: Model) -> None:
    made: list[str] = []
    engine = build(tiny, made)

    assert build(tiny, made) == engine
    assert made == ["built"]
    manifest = read_manifest(engine.path.parent)
    assert (manifest.backend, manifest.model, manifest.model_sha256) == ("here", "tiny", tiny.sha256)
    assert (manifest.size_bytes, manifest.device, manifest.versions) == (7, "SM89", {"here": "1.0"})
    assert manifest.phases == {"parsing": 0.5}
    assert manifest.notes == ("one layer stays in float",)
    assert build(tiny, made, threads=2).path != engine.path


@pytest.mark.parametrize("damage", [b"lay", b"layers?", None])
def test_a_damaged_file_is_noticed_and_built_again(tiny: Model, damage: bytes | None) -> None:
    made: list[str] = []
    engine = build(tiny, made)
    engine.path.unlink() if damage is None else engine.path.write_bytes(damage)

    with pytest.raises(EngineError, match=r"engine of tiny cannot be used: .*(gone|3 bytes in place of 7|was changed)"):
        check_file(engine)
    assert build(tiny, made) == engine
    check_file(engine)
    assert len(made) == 2


def test_a_manifest_that_names_a_file_elsewhere_is_not_followed(tiny: Model) -> None:
    engine = build(tiny, [])
    path = engine.path.parent / MANIFEST
    path.write_text(path.read_text().replace('"model.plan"', '"../../../etc/hostname"'))

    with pytest.raises(EngineError, match="names a file outside of its folder"):
        check_file(engine)


def test_two_builds_at_once_are_one(tiny: Model) -> None:
    made: list[str] = []
    said: list[str] = []
    engines: list[Engine] = []

    def until_another_waits() -> None:
        end = time.monotonic() + 60
        while WAITING not in said and time.monotonic() < end:
            time.sleep(0.01)

    def ask() -> None:
        engines.append(build(tiny, made, meanwhile=until_another_waits, progress=lambda _, words: said.append(words)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == ["built"]
    assert len({engine.path for engine in engines}) == 1
    assert WAITING in said


def test_nothing_stays_of_a_build_that_was_cancelled(tiny: Model, default_workspace: Path) -> None:
    def make(folder: Path) -> Built:
        (folder / "model.plan").write_bytes(b"half")
        raise Cancelled

    with pytest.raises(Cancelled):
        build_artifact(tiny, "here", {}, "SM89", {}, "model.plan", make, silent)

    left = [path for path in default_workspace.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert build(tiny, []).path.is_file()


def test_a_folder_without_a_manifest_holds_no_engine(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(EngineError, match="holds no engine"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text('{"backend": 3}')
    with pytest.raises(EngineError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)
