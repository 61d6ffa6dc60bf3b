"""What a recipe packs in the end, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from workbench.comparison import Row
from workbench.dataset import Dataset
from workbench.exporters import Package, check_backend, export_package
from workbench.jobs import Progress, part_of
from workbench.options import option
from workbench.package_measure import measure_for_package
from workbench.serving_measure import MeasureServingOptions
from workbench.serving_measurements import Measurements
from workbench.workspace import Workspace


@dataclass(frozen=True)
class ExportRecipe:
    """How the chosen candidate is packed."""

    exporter: Annotated[str, option("What writes the package.")] = "server"
    options: Annotated[dict[str, Any], option("Options of the exporter.")] = field(default_factory=dict)
    directory: Annotated[str, option("Folder that does not exist yet; one in the workspace if empty.")] = ""
    measure: Annotated[
        MeasureServingOptions | None,
        option("Measure first what its numbers follow from: how to divide the cores, and the load that it takes."),
    ] = None
    sign_key: Annotated[str, option("Private key (PEM, elliptic curve) to sign with; not signed if empty.")] = ""


def export_choice(
    wanted: ExportRecipe, chosen: Row, evaluation: Dataset, workspace: Workspace, fresh: bool, progress: Progress
) -> Package:
    """Packs the choice; measures its load first where that is wanted.

    Raises:
        ExportError: The exporter does not run its backend, or the package cannot be written.
    """
    check_backend(chosen.candidate, wanted.exporter)
    found = Measurements(chosen)
    if wanted.measure is not None:
        found = measure_for_package(
            chosen.candidate,
            wanted.exporter,
            evaluation,
            wanted.measure,
            row=chosen,
            workspace=workspace,
            fresh=fresh,
            progress=part_of(progress, 0.0, 0.8),
        )
    return export_package(
        chosen.candidate,
        wanted.exporter,
        wanted.options,
        sample=evaluation,
        measured=found,
        directory=Path(wanted.directory) if wanted.directory else None,
        sign_key=wanted.sign_key or None,
        workspace=workspace,
        progress=part_of(progress, 0.8, 1.0),
    )
