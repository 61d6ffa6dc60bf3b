"""Which candidates the Compare panel measures: the original and its variants on each backend, and additions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from widgets._form import changed_options
from workbench.backends import build_engine
from workbench.comparison import ORIGINAL, Candidate
from workbench.dataset import Dataset
from workbench.errors import Cancelled, WorkbenchError
from workbench.jobs import Progress, part_of
from workbench.model import Model, Step
from workbench.plugins import find_plugin, list_plugins
from workbench.recipe import make_candidate
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Wanted:
    """One candidate to measure.

    Attributes:
        name: Its name in tables.
        backend: What runs it.
        options: Options of the backend that differ from the defaults.
        variant: Name of the variant; `original` for the model as it is.
        model: That model; None for an addition, which is made first.
        transforms: How the model is made of the original, as a recipe has it; None if a recipe cannot make it.
    """

    name: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ORIGINAL
    model: Model | None = None
    transforms: tuple[str | Mapping[str, Any], ...] | None = ()

    @property
    def entry(self) -> dict[str, Any]:
        """The candidate as a recipe has it; what it need not say is left out."""
        entry = {"name": self.name, "transforms": list(self.transforms or ()), "backend": self.backend}
        return {key: value for key, value in {**entry, "options": dict(self.options)}.items() if value}


def wanted_candidates(
    models: Sequence[tuple[str, Model]],
    backends: Mapping[str, Mapping[str, Any]],
    additions: Sequence[Mapping[str, Any]] = (),
) -> list[Wanted]:
    """Every model on every backend, the original on the first of them at the head, then the additions.

    Args:
        models: Name and model, the original first.
        backends: Options by backend.
        additions: Candidates as a recipe has them; without a backend they run on the first.
    """
    first = next(iter(backends))
    found = [
        Wanted(_name(name, backend, backend != first), backend, options, name, model, recipe_steps(model.history))
        for name, model in models
        for backend, options in backends.items()
    ]
    taken = {wanted.name for wanted in found}
    for addition in additions:
        backend = addition.get("backend", first)
        options = addition.get("options") or backends.get(backend, {})
        wanted = Wanted(addition["name"], backend, options, transforms=tuple(addition.get("transforms", ())))
        if wanted.name not in taken:
            found.append(wanted)
            taken.add(wanted.name)
    return found


def make_all(
    wanted: Sequence[Wanted], calibration: Dataset | None, workspace: Workspace, progress: Progress
) -> tuple[list[Candidate], dict[str, str]]:
    """Makes the candidates; those that cannot be made are left out.

    Returns:
        The candidates, and why not for each of the others.

    Raises:
        WorkbenchError: The first of them, which the others are compared with, cannot be made.
    """
    original = wanted[0].model
    made: list[Candidate] = []
    failures: dict[str, str] = {}
    for number, each in enumerate(wanted):
        report = part_of(progress, number / len(wanted), (number + 1) / len(wanted))
        report(0.0, f"preparing {each.name}")
        try:
            if each.model is not None:
                made.append(Candidate(each.name, build_engine(each.model, each.backend, each.options)))
            elif original is not None:
                options = {"calibration": calibration, "workspace": workspace, "progress": report}
                made.append(make_candidate(original, each.entry, **options))
        except Cancelled:
            raise
        except WorkbenchError as error:
            if number == 0:
                raise
            failures[each.name] = str(error)
    return made, failures


def recipe_steps(history: Sequence[Step]) -> tuple[str | dict[str, Any], ...] | None:
    """A model's transforms as a recipe has them: a name, with the options that differ from the defaults.

    Returns:
        None for a model that was trained, which is no transform.
    """
    if not are_transforms(history):
        return None
    steps: list[str | dict[str, Any]] = []
    for step in history:
        changed = changed_options(find_plugin("transforms", step.transform).Options, step.options)
        steps.append({step.transform: changed} if changed else step.transform)
    return tuple(steps)


def are_transforms(history: Sequence[Step]) -> bool:
    """Whether transforms alone lead to a model; else it was trained."""
    return {step.transform for step in history} <= {plugin.name for plugin in list_plugins("transforms")}


def _name(variant: str, backend: str, told_apart: bool) -> str:
    return f"{variant} · {backend}" if told_apart else variant
