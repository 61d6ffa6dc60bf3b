"""A recipe: the whole flow from model to package as one YAML or JSON file, and what running it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from workbench._recipe_export import ExportRecipe, export_choice
from workbench.backends import build_engine
from workbench.choice import Choice, ChoiceOptions, choose
from workbench.comparison import ORIGINAL, Candidate, Comparison, compare
from workbench.dataset import Dataset
from workbench.errors import GateError, RecipeError, WorkbenchError
from workbench.exporters import Package
from workbench.findings import Finding, explain
from workbench.gates import GateResult, Gates, evaluate_gates
from workbench.importers import load_dataset, load_model
from workbench.jobs import Progress, part_of, silent
from workbench.measure.accuracy import AccuracyOptions
from workbench.measure.latency import LatencyOptions
from workbench.model import Model
from workbench.options import make_options, option, to_builtins
from workbench.plugins import find_plugin
from workbench.provenance import check_key
from workbench.transforms import transform
from workbench.workspace import Workspace, fingerprint, write_json


@dataclass(frozen=True)
class DataRecipe:
    """Where samples come from: `.npz` files, or `sample:digits` for both."""

    evaluation: Annotated[str, option("Samples that score, with labels if accuracy is wanted.")]
    calibration: Annotated[str, option("Samples that set ranges; never those that score.")] = ""


@dataclass(frozen=True)
class CandidateRecipe:
    """One variant to try."""

    name: Annotated[str, option("Its name in tables.")]
    transforms: Annotated[
        tuple[str | dict[str, dict[str, Any] | None], ...],
        option("Steps in order: a name, or a name with its options."),
    ] = ()
    backend: Annotated[str, option("What runs it.")] = "onnxruntime"
    options: Annotated[dict[str, Any], option("Options of the backend.")] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """The whole flow; paths are relative to the folder that it runs in."""

    model: Annotated[str, option("A model file or folder of any format, or sample:digits.")]
    data: Annotated[DataRecipe, option("Samples.")]
    candidates: Annotated[tuple[CandidateRecipe, ...], option("Variants to try beside the original.")] = ()
    importer: Annotated[dict[str, Any], option("Options of the importer that reads it.")] = field(default_factory=dict)
    trust: Annotated[bool, option("Whether the model file may run code of its own.")] = False
    name: Annotated[str, option("Name of the run; the model's if empty.")] = ""
    backend: Annotated[str, option("What runs the original.")] = "onnxruntime"
    options: Annotated[dict[str, Any], option("Options of that backend.")] = field(default_factory=dict)
    latency: Annotated[LatencyOptions, option("How latency is measured.")] = field(default_factory=LatencyOptions)
    accuracy: Annotated[AccuracyOptions, option("What the model is for.")] = field(default_factory=AccuracyOptions)
    choose: Annotated[ChoiceOptions, option("What to look for.")] = field(default_factory=ChoiceOptions)
    explain: Annotated[bool, option("Whether to say why each candidate is as fast as it is.")] = False
    gates: Annotated[Gates, option("Limits that fail the run.")] = field(default_factory=Gates)
    export: Annotated[ExportRecipe | None, option("How to pack the choice; nothing is packed without.")] = None


@dataclass(frozen=True)
class Run:
    """What a recipe gave."""

    recipe: Recipe
    comparison: Comparison
    choice: Choice
    gates: tuple[GateResult, ...]
    package: Package | None
    path: Path
    findings: tuple[Finding, ...] = ()

    def check_gates(self) -> None:
        """Fails if a limit was missed.

        Raises:
            GateError: Names each missed limit and by how much.
        """
        missed = [str(gate) for gate in self.gates if not gate.passed]
        if missed:
            raise GateError(
                f"{self.choice.name} misses {len(missed)} gate{'s' if len(missed) > 1 else ''}: {'; '.join(missed)}.",
                f"The full result is in {self.path}; loosen the gate or try other candidates.",
            )


def read_recipe(source: Path | str | Mapping[str, Any] | Recipe) -> Recipe:
    """Reads and checks a recipe.

    Args:
        source: A `.yaml`, `.yml` or `.json` file, or its content as a mapping.

    Raises:
        RecipeError: The file cannot be read, or holds a key or value that a recipe cannot have.
    """
    where = "the recipe"
    values: Any = source
    if isinstance(source, str | Path):
        where = f"the recipe {source}"
        values = _read_file(Path(source).expanduser())
    if isinstance(values, Mapping) and isinstance(values.get("data"), str):
        values = {**values, "data": {"evaluation": values["data"], "calibration": values["data"]}}
    try:
        recipe: Recipe = make_options(Recipe, values, where)
        _check_plugins(recipe, where)
        names = [ORIGINAL, *(candidate.name for candidate in recipe.candidates)]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise RecipeError(
                f"{where} has several candidates named {', '.join(sorted(repeated))}.",
                f"Give each a name of its own; '{ORIGINAL}' is the model as it is.",
            )
    except WorkbenchError as error:
        raise RecipeError(error.message[0].upper() + error.message[1:], error.remedy) from None
    return recipe


def _check_plugins(recipe: Recipe, where: str) -> None:
    """Refuses unknown plugins and options now, not after minutes of work."""
    plugins = [("backends", recipe.backend, recipe.options, recipe.backend)]
    for candidate in recipe.candidates:
        options = _options_of(recipe, candidate)
        plugins.append(("backends", candidate.backend, options, f"{candidate.name}: {candidate.backend}"))
        for name, given in _steps(candidate, where):
            plugins.append(("transforms", name, given, f"{candidate.name}: {name}"))
    if recipe.export:
        plugins.append(("exporters", recipe.export.exporter, recipe.export.options, "export"))
    for group, name, given, place in plugins:
        make_options(find_plugin(group, name).Options, given, f"{where}: {place}")


def run_recipe(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    workspace: Workspace | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Run:
    """Runs the whole flow; what an earlier run had finished is reused.

    The result is written to `<workspace>/runs/`; gates are evaluated but not enforced: call `Run.check_gates`.

    Args:
        recipe: A recipe, or where it lies.
        workspace: Where results and artifacts are kept.
        fresh: Measure again even if the workspace has the result.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        RecipeError: The recipe cannot be followed.
    """
    recipe = read_recipe(recipe)
    if recipe.export and recipe.export.sign_key:
        check_key(Path(recipe.export.sign_key).expanduser())  # a key that cannot be used is said before the work
    workspace = workspace or Workspace()
    calibration = load_dataset(recipe.data.calibration, "calibration") if recipe.data.calibration else None
    model = load_model(
        recipe.model,
        recipe.importer,
        samples=calibration,
        trust=recipe.trust,
        workspace=workspace,
        progress=part_of(progress, 0.0, 0.1),
    )
    evaluation = load_dataset(recipe.data.evaluation, "evaluation")
    candidates = [Candidate(ORIGINAL, build_engine(model, recipe.backend, recipe.options))]
    for number, wanted in enumerate(recipe.candidates):
        start, end = (0.1 + 0.3 * (number + step) / len(recipe.candidates) for step in (0, 1))
        wanted = replace(wanted, options=_options_of(recipe, wanted))
        report = part_of(progress, start, end)
        candidates.append(make_candidate(model, wanted, calibration=calibration, workspace=workspace, progress=report))
    comparison = compare(
        candidates,
        evaluation,
        recipe.latency,
        accuracy=recipe.accuracy,
        workspace=workspace,
        fresh=fresh,
        progress=part_of(progress, 0.4, 0.7 if recipe.explain else 0.9),
    )
    findings: tuple[Finding, ...] = ()
    if recipe.explain:
        report = part_of(progress, 0.7, 0.9)
        findings = explain(comparison, dataset=evaluation, workspace=workspace, progress=report)
    choice = choose(comparison, recipe.choose)
    chosen = comparison[choice.name]
    package = None
    if recipe.export:
        report = part_of(progress, 0.9, 1.0)
        package = export_choice(recipe.export, chosen, evaluation, workspace, fresh, report)
    name = re.sub(r"[^\w.-]+", "-", recipe.name or model.name).lstrip(".")
    path = workspace.root / "runs" / f"{name}-{fingerprint({'recipe': to_builtins(recipe)})[:8]}.json"
    gates = evaluate_gates(recipe.gates, comparison, chosen)
    run = Run(recipe, comparison, choice, gates, package, path, findings)
    write_json(path, run)
    progress(1.0, "done")
    return run


def make_candidate(
    model: Model,
    wanted: CandidateRecipe | Mapping[str, Any],
    *,
    calibration: Dataset | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Candidate:
    """Applies a candidate's transforms to the original and makes the result ready for its backend.

    Args:
        model: The original.
        wanted: The candidate, as a recipe has it under `candidates`.
        calibration: Samples for the transforms that need some.
        workspace: Where models are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        RecipeError: A transform needs samples, and there are none.
        OptionsError: `wanted` holds something that a candidate cannot have.
    """
    wanted = make_options(CandidateRecipe, wanted, "the candidate")
    steps = _steps(wanted)
    for number, (name, options) in enumerate(steps):
        report = part_of(progress, number / len(steps), (number + 1) / len(steps), f"{wanted.name}: ")
        needs_samples = find_plugin("transforms", name).NEEDS_DATASET
        if needs_samples and calibration is None:
            raise RecipeError(
                f"{wanted.name} needs calibration samples for {name}, and there are none.",
                "Load some, in a recipe by `calibration:` under `data:`; do not use the evaluation samples for it.",
            )
        samples = calibration if needs_samples else None
        model = transform(model, name, options, dataset=samples, workspace=workspace, progress=report)
    return Candidate(wanted.name, build_engine(model, wanted.backend, wanted.options))


def _options_of(recipe: Recipe, candidate: CandidateRecipe) -> dict[str, Any]:
    """The candidate's options; without any those of the original, where that runs on the same backend."""
    return candidate.options or (recipe.options if candidate.backend == recipe.backend else {})


def _steps(candidate: CandidateRecipe, where: str = "the recipe") -> list[tuple[str, dict[str, Any]]]:
    """Each transform as a name and its options."""
    steps: list[tuple[str, dict[str, Any]]] = []
    for step in candidate.transforms:
        if isinstance(step, str):
            steps.append((step, {}))
        elif len(step) == 1:
            [(name, options)] = step.items()
            steps.append((name, options or {}))
        else:
            raise RecipeError(
                f"{where}: a step of {candidate.name} names {len(step)} transforms: {', '.join(step) or 'none'}.",
                "Write each transform as an item of its own.",
            )
    return steps


def _read_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RecipeError(f"The recipe {path} cannot be read: {reason}.", "Check the path.") from None
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"The recipe {path} is not valid: {reason}.", "Correct that line.") from None
