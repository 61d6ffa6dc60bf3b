"""Engines that leave the workspace: they come back where they fit, and are built again where they do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from workbench.artifact import MANIFEST, Manifest, read_manifest
from workbench.backends import build_engine
from workbench.engine import Engine
from workbench.errors import EngineError, ModelError, OptionsError
from workbench.model import Model
from workbench.saved_engine import load_engine, save_engine
from workbench.workspace import read_json


@pytest.fixture
def engine(tiny: Model) -> Engine:
    return build_engine(tiny, "tensorrt", {"targets": ["SM86"]})


@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    """A saved engine, from whose machine nothing else is left."""
    folder = save_engine(engine, tmp_path / "saved")
    shutil.rmtree(engine.path.parent)
    return folder


def test_a_saved_engine_is_used_as_it_is(saved: Path, engine: Engine) -> None:
    loaded = load_engine(saved)

    assert loaded.rebuilt == ""
    assert loaded.engine.path.parent == saved
    assert loaded.engine.path.name == engine.path.name
    assert (loaded.engine.device, loaded.engine.options) == ("SM86", engine.options)
    assert loaded.engine.model.sha256 == engine.model.sha256
    assert loaded.engine.model.name == "tiny"
    assert "key.json" not in {path.name for path in saved.iterdir()}


def test_one_of_another_version_is_built_again_from_its_model(saved: Path) -> None:
    path = saved / MANIFEST
    [name] = read_manifest(saved).versions
    path.write_text(path.read_text().replace(read_manifest(saved).versions[name], "0.9.0"))

    with pytest.raises(EngineError, match=rf"cannot be used here: it was built with {name} 0\.9\.0, and here is "):
        load_engine(saved, rebuild=False)
    said: list[str] = []
    loaded = load_engine(saved, log=said.append)
    assert "It was built again from its model, since it was built with" in loaded.rebuilt
    assert "building again" in said[0]
    assert loaded.engine.versions != {name: "0.9.0"}
    assert loaded.engine.device == "SM86"
    assert loaded.engine.path.parent != saved


def test_a_truncated_one_is_built_again(saved: Path) -> None:
    plan = saved / read_manifest(saved).file
    plan.write_bytes(plan.read_bytes()[:100])

    with pytest.raises(EngineError, match="has 100 bytes in place of"):
        load_engine(saved, rebuild=False)
    assert load_engine(saved).rebuilt.startswith("It was built again from its model, since ")


def test_another_model_beside_it_is_refused(saved: Path, digits: Model) -> None:
    shutil.copyfile(digits.path, saved / "model.onnx")
    with pytest.raises(EngineError, match=r"model\.onnx is not the model that the engine was built from"):
        load_engine(saved)
    (saved / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_engine(saved)


def test_a_manifest_from_a_stranger_is_read_with_care(saved: Path, tmp_path: Path) -> None:
    path, content = saved / MANIFEST, (saved / MANIFEST).read_text()
    path.write_text(content.replace('"options": {', '"options": {"script": "x",'))
    with pytest.raises(OptionsError, match="no option 'script'"):
        load_engine(saved)
    path.write_text(content.replace(f'"{read_json(path, Manifest).file}"', '"../../../../etc/hostname"'))
    with pytest.raises(EngineError, match="names a file outside of its folder"):
        load_engine(saved)
    with pytest.raises(EngineError, match="holds no engine"):
        load_engine(tmp_path / "nowhere")


def test_nothing_is_overwritten_and_what_is_no_file_is_not_saved(engine: Engine, saved: Path, tiny: Model) -> None:
    again = build_engine(tiny, "tensorrt", {"targets": ["SM86"]})
    with pytest.raises(EngineError, match="exists already"):
        save_engine(again, saved)
    with pytest.raises(EngineError, match="onnxruntime compiles tiny when it opens it"):
        save_engine(build_engine(tiny), saved.parent / "other")


def test_the_command_line_builds_saves_and_looks_into_it(
    command_line: CommandLine, tiny: Model, tmp_path: Path
) -> None:
    built = command_line("build", "tensorrt", tiny.path, "--targets", "SM89", "--output", tmp_path / "plan")
    assert built.returncode == 0, built.stderr
    assert "tiny on tensorrt, for SM89" in built.stdout
    assert "saved to" in built.stdout

    shown = command_line("engine", tmp_path / "plan")
    assert shown.returncode == 0, shown.stderr
    assert "float32" in shown.stdout

    missing = command_line("engine", tmp_path)
    assert missing.returncode == 2
    assert "holds no engine" in missing.stderr
