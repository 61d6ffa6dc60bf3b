"""Plugins: files of a folder, entry points of other packages, and what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import PluginError
from workbench.plugins import find_plugin, list_plugins

GROUPS = ("importers", "transforms", "backends", "exporters")


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("importers", {"onnx"}),
        ("transforms", {"quantize_static", "quantize_dynamic", "float16"}),
        ("backends", {"onnxruntime"}),
        ("exporters", {"server"}),
    ],
)
def test_the_files_of_a_folder_are_its_plugins(group: str, names: set[str]) -> None:
    found = list_plugins(group)

    assert names <= {plugin.name for plugin in found}
    assert [plugin.name for plugin in found] == sorted(plugin.name for plugin in found)
    assert all(plugin.available and plugin.reason == "" for plugin in found if plugin.name in names)


def test_a_plugin_is_found_by_its_name_on_the_command_line_too() -> None:
    assert find_plugin("transforms", "quantize-static") is find_plugin("transforms", "quantize_static")


def test_an_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"no 'quantise_static' among .*Did you mean 'quantize_static'"):
        find_plugin("transforms", "quantise_static")


def test_a_private_file_is_no_plugin() -> None:
    with pytest.raises(PluginError):
        find_plugin("transforms", "_onnxruntime")


def in_fresh_python(code: str, *paths: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_another_package_brings_a_plugin_by_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "their_pruner.py").write_text('"""Prunes channels."""\nREQUIRES = {}\n')
    metadata = tmp_path / "their_pruner-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pruner\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[workbench.transforms]\nprune_theirs = their_pruner\n")
    code = """
from workbench.plugins import find_plugin, list_plugins
print([plugin.summary for plugin in list_plugins("transforms") if plugin.name == "prune_theirs"])
print(find_plugin("transforms", "prune_theirs").__name__)
"""
    assert in_fresh_python(code, tmp_path) == "['Prunes channels.']\ntheir_pruner\n"


def test_a_plugin_that_lacks_a_package_is_listed_with_what_it_lacks() -> None:
    code = """
import sys
sys.modules["onnxruntime"] = None  # as if it were not installed
from workbench.errors import MissingDependencyError
from workbench.plugins import find_plugin, list_plugins
[backend] = [plugin for plugin in list_plugins("backends") if plugin.name == "onnxruntime"]
print(backend.available, backend.reason, backend.summary)
try:
    find_plugin("backends", "onnxruntime")
except MissingDependencyError as error:
    print(error)
"""
    first, second = in_fresh_python(code).splitlines()

    assert first.startswith("False needs onnxruntime: pip install 'deployment-workbench[cpu]' ONNX Runtime")
    assert second.startswith("'onnxruntime' needs onnxruntime, which this environment lacks. Install it: pip install")


@pytest.mark.parametrize(("there", "reason"), [("one", ""), ("other", ""), ("", "needs one_x or other_x: ")])
def test_either_of_two_packages_will_do(tmp_path: Path, there: str, reason: str) -> None:
    (tmp_path / "their_backend.py").write_text('"""Runs."""\nREQUIRES = {"one_x|other_x": "theirs"}\n')
    metadata = tmp_path / "their_backend-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[workbench.backends]\ntheirs = their_backend\n")
    if there:
        (tmp_path / f"{there}_x.py").write_text("")
        (tmp_path / f"{there}_x-2.0.dist-info").mkdir()
        (tmp_path / f"{there}_x-2.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {there}_x\nVersion: 2.0\n"
        )
    code = """
import their_backend
from workbench.plugins import list_plugins, required_versions
[plugin] = [plugin for plugin in list_plugins("backends") if plugin.name == "theirs"]
print(plugin.available, plugin.reason, required_versions(their_backend))
"""
    told = in_fresh_python(code, tmp_path)

    if there:
        assert told == f"True  {{'{there}_x': '2.0'}}\n"
    else:
        assert told == f"False {reason}pip install 'deployment-workbench[theirs]' {{}}\n"
