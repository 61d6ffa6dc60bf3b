"""The Python and the recipe that do what the Export panel was told to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from widgets._export_measured import HERE, LOAD_TEST, Gathered
from widgets._form import changed_options
from workbench.options import to_builtins
from workbench.plugins import find_plugin
from workbench.serving_measure import MeasureServingOptions


def export_code(
    candidate: str, exporter: str, options: Mapping[str, Any], directory: str, sign_key: str, found: Gathered | None
) -> tuple[str, str]:
    """The export as Python and as part of a recipe.

    Args:
        candidate: Its name in the comparison.
        exporter: What writes the package.
        options: Options of it that differ from the defaults.
        directory: Where to; empty for the workspace.
        sign_key: Path of the private key; empty for no signature.
        found: What its numbers follow from; None if there is no candidate.
    """
    origin = found.origin if found else ""
    asked = found.measurements.options if found and origin == HERE else None
    told = changed_options(MeasureServingOptions, to_builtins(asked)) if asked else {}
    lines = ["import workbench as wb", "", f"row = comparison[{candidate!r}]"]
    measured = "row"
    if origin == HERE:
        given = f"row.candidate, {exporter!r}, evaluation{f', {told!r}' if told else ''}"
        lines.append(f"found = wb.measure_for_package({given}, row=row, workspace=wb.Workspace())")
        measured = "found"
    elif found and origin == LOAD_TEST:
        curve, sweep = ("curve" if found.measurements.curve else ""), ("sweep" if found.measurements.sweep else "")
        names = " and ".join(filter(None, (curve, sweep)))
        lines.append(f"# {names}: what the code of the Load test panel calls `found`")
        measured = f"wb.Measurements(row, {curve or '()'}, {sweep or 'None'})"
    arguments = ", ".join(
        [
            f"row.candidate, {exporter!r}",
            *([repr(dict(options))] if options else []),
            f"sample=evaluation, measured={measured}",
            *([f"directory={directory!r}"] if directory else []),
            *([f"sign_key={sign_key!r}"] if sign_key else []),
        ]
    )
    lines += [f"package = wb.export_package({arguments})", "print(wb.verify_package(package.directory))"]
    if find_plugin("exporters", exporter).COMMAND:
        lines.append("print(wb.try_package(package))")
    step: dict[str, Any] = {"exporter": exporter, "options": options, "directory": directory, "sign_key": sign_key}
    step = {name: value for name, value in step.items() if value}
    if origin == HERE:
        step["measure"] = told
    recipe = yaml.safe_dump({"export": step}, sort_keys=False)
    if origin == LOAD_TEST:
        recipe = f"# Recipes do not hold what the Load test measured; `measure: {{}}` measures it anew.\n{recipe}"
    return "\n".join(lines), recipe
