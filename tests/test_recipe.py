"""Recipes: read with suspicion, run whole, gated."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workbench.errors import Cancelled, GateError, OptionsError, RecipeError
from workbench.exporters import read_package
from workbench.gates import Gates, evaluate_gates
from workbench.recipe import Recipe, Run, read_recipe, run_recipe
from workbench.workspace import Workspace, read_json

ROOT = Path(__file__).parent.parent
CommandLine = Callable[..., subprocess.CompletedProcess[str]]
FLOW: dict[str, Any] = {
    "model": "sample:digits",
    "data": "sample:digits",
    "candidates": [
        {"name": "int8", "transforms": [{"quantize_static": {"samples": 32}}]},
        {"name": "half", "transforms": ["float16"]},
    ],
    "options": {"threads": 1},
    "latency": {"seconds": 0.3},
    "export": {},
}


@pytest.fixture(scope="session")
def finished(shared_workspace: Workspace) -> Run:
    return run_recipe(FLOW, workspace=shared_workspace)


# --- reading -------------------------------------------------------------------------------------------------------


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(FLOW))
    (tmp_path / "recipe.json").write_text(json.dumps(FLOW))

    assert read_recipe(tmp_path / "recipe.yaml") == read_recipe(tmp_path / "recipe.json") == read_recipe(FLOW)
    assert read_recipe(read_recipe(FLOW)) == read_recipe(FLOW)


def test_the_recipe_of_the_tour_is_one() -> None:
    recipe = read_recipe(ROOT / "notebooks" / "recipe.yaml")

    assert recipe.model == "sample:digits"
    assert recipe.candidates


def changed(**changes: Any) -> dict[str, Any]:
    return {**FLOW, **changes}


def candidate(**values: Any) -> dict[str, Any]:
    return changed(candidates=[{"name": "int8", **values}])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed(modell="x"), ["has no option 'modell'", "Did you mean 'model'?"]),
        (changed(latency={"secnds": 1}), ["latency has no option 'secnds'", "Did you mean 'seconds'?"]),
        (candidate(transfroms=[]), ["candidates 1 has no option 'transfroms'", "Did you mean 'transforms'?"]),
        (changed(gates={"max_p50": 1}), ["gates has no option 'max_p50'", "Did you mean 'max_p50_ms'?"]),
        (candidate(transforms=["quantise_static"]), ["no 'quantise_static'", "Did you mean 'quantize_static'?"]),
        (candidate(transforms=[{"float16": {"keep": []}}]), ["int8: float16 has no option 'keep'", "keep_float"]),
        (candidate(transforms=[{"quantize_static": {"samples": 0}}]), ["samples = 0", "from 1 to 65536 samples"]),
        (candidate(transforms=[{"a": {}, "b": {}}]), ["names 2 transforms: a, b"]),
        (candidate(transforms=[3]), ["candidates[0].transforms[0] = 3"]),
        (candidate(backend="onnxruntim"), ["no 'onnxruntim'", "Did you mean 'onnxruntime'?"]),
        (candidate(options={"thread": 1}), ["int8: onnxruntime has no option 'thread'", "Did you mean 'threads'?"]),
        (changed(options={"threads": -1}), ["threads = -1"]),
        (changed(candidates=[{"name": "a"}, {"name": "a"}]), ["several candidates named a"]),
        (changed(candidates=[{"name": "original"}]), ["several candidates named original"]),
        (changed(candidates=[{}]), ["candidates[0]", "name"]),
        (changed(export={"exporter": "servr"}), ["no 'servr'", "Did you mean 'server'?"]),
        (changed(export={"options": {"queu": 1}}), ["export has no option 'queu'", "Did you mean 'queue'?"]),
        (changed(latency={"seconds": "long"}), ["latency.seconds = 'long'", "from 0.2 to 3600 s"]),
        (changed(gates={"min_accuracy": 900}), ["gates.min_accuracy = 900", "from 0 to 100 %"]),
        (changed(choose={"prefer": "speed"}), ["choose.prefer = 'speed'", "Choose one of latency, size"]),
        ({"data": "sample:digits"}, ["incomplete", "model"]),
        ({}, ["incomplete"]),
        ([FLOW], ["given as list"]),
        ("just text", ["given as str"]),
        (None, ["incomplete"]),
    ],
)
def test_what_a_recipe_cannot_be_is_refused_by_name(tmp_path: Path, values: Any, words: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    for word in words:
        assert word in str(caught.value)
    if "no '" not in words[0]:
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.yaml", "model: [unclosed"),
        ("recipe.yaml", "a: b: c"),
        ("recipe.json", '{"model": '),
        ("recipe.json", ""),
        ("recipe.yaml", "[" * 5000),
        ("recipe.json", "[" * 100_000),
        ("recipe.yaml", "\0"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=f"The recipe .*{name} is not valid: "):
        read_recipe(tmp_path / name)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9t\xe9")
    for path, words in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin.yaml", "not UTF-8"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(path)


def test_a_python_object_in_a_recipe_is_not_made(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (tmp_path / "recipe.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{trap}']")
    with pytest.raises(RecipeError, match="python/object"):
        read_recipe(tmp_path / "recipe.yaml")
    assert not trap.exists()


# --- running -------------------------------------------------------------------------------------------------------


def test_the_whole_flow_runs(finished: Run, shared_workspace: Workspace) -> None:
    assert [row.name for row in finished.comparison.rows] == ["original", "int8", "half"]
    assert finished.choice.name in {"original", "int8", "half"}
    assert finished.package is not None
    assert finished.package == read_package(finished.package.directory)
    assert finished.package.candidate == finished.choice.name
    assert finished.path.is_relative_to(shared_workspace.root / "runs")
    assert read_json(finished.path, Run) == finished


def test_a_rerun_is_served_from_the_workspace(finished: Run, shared_workspace: Workspace) -> None:
    heard: list[str] = []
    again = run_recipe(
        FLOW, workspace=Workspace(shared_workspace.root), progress=lambda _, message: heard.append(message)
    )
    assert again == finished
    assert not [message for message in heard if "calibrating" in message or "latency" in message]


def test_a_name_cannot_lead_out_of_the_workspace(finished: Run, shared_workspace: Workspace) -> None:
    named = run_recipe({**FLOW, "name": "../../évasion \0"}, workspace=shared_workspace)

    assert named.path.parent == finished.path.parent
    assert named.path.is_file()


def test_calibration_never_uses_the_samples_that_score(workspace: Workspace, tiny: Any) -> None:
    recipe = {**FLOW, "data": {"evaluation": "sample:digits"}}
    with pytest.raises(RecipeError, match=r"int8 needs calibration samples for quantize_static.*do not use the eval"):
        run_recipe(recipe, workspace=workspace)


def test_a_cancelled_run_keeps_only_what_had_finished(workspace: Workspace) -> None:
    def cancel(fraction: float, message: str) -> None:
        if message.startswith("half: "):
            raise Cancelled

    with pytest.raises(Cancelled):
        run_recipe(FLOW, workspace=workspace, progress=cancel)
    assert len(list((workspace.root / "models").iterdir())) == 1  # int8 had finished
    assert list((workspace.root / "tmp").iterdir()) == []
    assert not (workspace.root / "runs").exists()


# --- gates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "kept", "missed"),
    [
        ("min_accuracy", 50, 100),
        ("max_accuracy_drop", 50, None),
        ("max_p50_ms", 1e6, 1e-6),
        ("min_speedup", 1e-3, 1e6),
        ("max_size_mb", 100, 1e-3),
    ],
)
def test_a_gate_holds_in_its_direction(finished: Run, gate: str, kept: float, missed: float | None) -> None:
    row = finished.comparison["int8"]

    [result] = evaluate_gates(Gates(**{gate: kept}), finished.comparison, row)
    assert result.passed
    assert str(result).startswith(f"{gate}: {result.measured:.4g} against a limit of {kept:g}, kept by ")
    if missed is not None:
        [result] = evaluate_gates(Gates(**{gate: missed}), finished.comparison, row)
        assert not result.passed
        assert result.measured is not None
        assert result.margin == pytest.approx(abs(missed - result.measured))
        assert ", missed by " in str(result)


def test_a_gate_on_exactly_the_limit_is_kept(finished: Run) -> None:
    row = finished.comparison["int8"]
    drop = finished.comparison.accuracy_drop(row)
    [result] = evaluate_gates(Gates(max_accuracy_drop=drop - 1e-12), finished.comparison, row)

    assert result.passed


def test_a_gate_on_what_was_not_measured_is_missed(finished: Run) -> None:
    row = finished.comparison.original
    row = dataclasses.replace(row, latency=dataclasses.replace(row.latency, p99=None))
    [result] = evaluate_gates(Gates(max_p99_ms=1000), finished.comparison, row)

    assert not result.passed
    assert "nothing was measured" in str(result)


def test_no_gate_no_result(finished: Run) -> None:
    assert evaluate_gates(Gates(), finished.comparison, finished.comparison.original) == ()
    finished.check_gates()


def test_a_missed_gate_says_which_and_by_how_much(shared_workspace: Workspace) -> None:
    run = run_recipe({**FLOW, "gates": {"max_size_mb": 0.001, "min_accuracy": 50}}, workspace=shared_workspace)
    with pytest.raises(
        GateError, match=r"misses 1 gate: max_size_mb: .* against a limit of 0.001, missed by"
    ) as caught:
        run.check_gates()
    assert str(run.path) in str(caught.value)
    assert "min_accuracy" not in str(caught.value)


def test_a_recipe_made_in_python_is_checked_too() -> None:
    recipe = read_recipe(FLOW)
    with pytest.raises(RecipeError, match=r"latency\.seconds = 0\.01"):
        read_recipe(dataclasses.replace(recipe, latency=dataclasses.replace(recipe.latency, seconds=0.01)))
    assert isinstance(recipe, Recipe)


def test_the_command_line_runs_it_and_ends_with_1_on_a_missed_gate(
    tmp_path: Path, shared_workspace: Workspace, finished: Run, command_line: CommandLine
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**FLOW, "gates": {"max_p50_ms": 1e-6}}))
    ended = command_line("run", "recipe.yaml", "--workspace", shared_workspace.root)

    assert ended.returncode == 1
    assert f"★ {finished.choice.name}" in ended.stdout
    assert f"result   {finished.path.parent}" in ended.stdout
    assert "gate     max_p50_ms: " in ended.stdout
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "misses 1 gate: max_p50_ms" in ended.stderr


def test_the_importer_gets_its_options(shared_workspace: Workspace) -> None:
    short = {"candidates": [], "latency": {"seconds": 0.2}, "export": None}

    run = run_recipe(changed(importer={"name": "mine"}, **short), workspace=shared_workspace)
    assert run.path.name.startswith("mine-")
    assert run.comparison.original.candidate.engine.model.name == "mine"
    with pytest.raises(OptionsError, match=r"importer onnx has no option 'nam'\. Did you mean 'name'\?"):
        run_recipe(changed(importer={"nam": "mine"}, **short), workspace=shared_workspace)
