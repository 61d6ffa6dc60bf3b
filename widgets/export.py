"""The Export panel: measures a candidate for serving, writes it as a package, verifies it and tries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._export_code import export_code
from widgets._export_measured import Gathered, Loaded, gather
from widgets._export_view import package_html, plan_html, trial_html, verification_html
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._panel import Panel, Work
from workbench.choice import Choice
from workbench.comparison import Comparison, Row
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import DatasetError, ExportError
from workbench.exporters import Package, check_backend, export_package, plan_package
from workbench.jobs import Progress, part_of
from workbench.measure.sweep import Sweep
from workbench.package_measure import measure_for_package
from workbench.plugins import find_plugin, list_plugins
from workbench.provenance import PASSWORD_VARIABLE, Verification, verify_package
from workbench.serving_measure import MeasureServingOptions
from workbench.serving_measurements import Measurements
from workbench.serving_plan import ServingPlan
from workbench.trial import Trial, try_package

_USUAL = "server"  # offered first
_FIRST = "Measure candidates first; the chosen one can then be exported."
_NEXT = "Press Export to write the package."


class _Written(NamedTuple):
    """A package, and whether it is as its checksums say."""

    package: Package
    verification: Verification


class Export(Panel):
    """Packs one measured candidate.

    "Measure for serving" finds how to divide the cores and the load that it takes, "Verify" compares the package with
    its checksums, and "Try it" starts it and sends it its sample request.
    """

    title = "Export"
    hint = "Writes a folder that runs as it is. Every number says what it comes from: a measurement, or a usual value."
    verb = "Export"
    icon = "archive"

    comparison = t.Instance(Comparison, allow_none=True)
    choice = t.Instance(Choice, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    curve = t.Tuple(help="LoadStats of rising rates, from the Load test panel.")
    curve_engine = t.Instance(Engine, allow_none=True, help="What these are of; they are used for the same candidate.")
    sweep = t.Instance(Sweep, allow_none=True, help="A sweep, from the Load test panel.")
    sweep_engine = t.Instance(Engine, allow_none=True, help="What that is of.")
    plan = t.Instance(ServingPlan, allow_none=True, help="The numbers that the package will have.")
    package = t.Instance(Package, allow_none=True)
    verification = t.Instance(Verification, allow_none=True)
    trial = t.Instance(Trial, allow_none=True)

    def __init__(self, **traits: Any) -> None:
        plugins = list_plugins("exporters")
        exporters = sorted((one.name for one in plugins if one.available), key=lambda name: name != _USUAL)
        field: dict[str, Any] = {"style": LABEL_STYLE, "layout": w.Layout(width=FIELD_WIDTH)}
        self.candidate = w.Dropdown(description="Candidate", options=[], **field)
        self.exporter = w.Dropdown(description="Package", options=exporters, **field)
        self.directory = w.Text(description="Folder", placeholder="in the workspace", **field)
        self.sign_key = w.Text(description="Signing key", placeholder="private key, a PEM file", **field)
        self.measuring = OptionsForm(MeasureServingOptions)
        self._forms = {name: OptionsForm(find_plugin("exporters", name).Options) for name in exporters}
        self._slot, self._refusal = w.VBox(), w.HTML()
        self.measure_button, self.try_button, self.verify_button = (
            w.Button(description=text, icon=icon, disabled=True, tooltip=tooltip)
            for text, icon, tooltip in (
                ("Measure for serving", "area-chart", "Find how to divide the cores, and the load that it takes"),
                ("Try it", "paper-plane", "Start the package on this machine and send it its sample request"),
                ("Verify", "check-square-o", "Compare every file with the package's checksums; nothing in it is run"),
            )
        )
        self._view, self._verified, self._tried, self._plan = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self._measured: list[Loaded] = []
        self._found: Gathered | None = None
        self._fingerprint = ""
        password = w.HTML(_markup.note(f"Its password, if it has one, is read from {PASSWORD_VARIABLE}."))
        folds = [
            w.Accordion([content], titles=(title,), selected_index=None)
            for title, content in (
                ("How serving is measured", self.measuring),
                ("Signature", w.VBox([self.sign_key, password])),
            )
        ]
        absent = "\n".join(f"{one.name}: {one.reason}" for one in plugins if not one.available)
        missing = [w.HTML(_markup.note(absent))] if absent else []
        form = w.VBox([self.candidate, self.exporter, self._refusal, self.directory, self._slot, *folds, *missing])
        super().__init__(form, w.VBox([self._view, self._verified, self._tried]), self._plan, **traits)
        for button in (self.try_button, self.verify_button, self.measure_button):
            self.add_action(button)
        for shown in (self.directory, self.sign_key):
            shown.observe(self.guard(self._show_code), "value")
        for options in self._forms.values():
            options.observe(self.guard(self._show_code), "values")
        self.exporter.observe(self.guard(self._swap), "value")
        self.candidate.observe(self.guard(self._look), "value")
        self.measure_button.on_click(lambda _: self.start_measuring())
        self.try_button.on_click(lambda _: self.start_trial())
        self.verify_button.on_click(lambda _: self.start_verification())
        self.observe(self.guard(self._list), ("comparison", "choice"))
        self.observe(self.guard(self._look), ("curve", "curve_engine", "sweep", "sweep_engine"))
        self.observe(lambda _: self._offer(), ("package", "state", "comparison"))
        self._swap()
        self._list()
        self._offer()

    @property
    def options(self) -> OptionsForm:
        """The form of the chosen exporter."""
        return self._forms[self.exporter.value]

    def prepare(self) -> Work:
        """Reads the form."""
        row, sample = self._row("export"), self._sample()
        found, exporter, options = self._gather(row), self.exporter.value, self.options.values
        directory, key = (Path(text) if (text := field.value.strip()) else None for field in self._paths)

        def work(progress: Progress) -> _Written:
            package = export_package(
                row.candidate,
                exporter,
                options,
                sample=sample,
                measured=found.measurements,
                directory=directory,
                sign_key=key,
                workspace=self.open_workspace(),
                progress=part_of(progress, 0.0, 0.9),
            )
            # One that lay in the workspace already may have been changed since.
            return _Written(package, _verify(package, part_of(progress, 0.9, 1.0)))

        self.update_seconds = Panel.update_seconds
        return work

    def start_measuring(self) -> Panel:
        """Measures the candidate for serving; the numbers of its packages follow from that."""
        return self.start(self._prepare_measuring)

    def start_trial(self) -> Panel:
        """Starts the package, sends its sample request, and stops it again."""
        return self.start(lambda: self._prepare_later("try", lambda one, progress: try_package(one, progress=progress)))

    def start_verification(self) -> Panel:
        """Looks for changed, missing and added files of the package."""
        known = self._fingerprint
        return self.start(
            lambda: self._prepare_later("verify", lambda one, progress: _verify(one, progress, fingerprint=known))
        )

    def show(self, result: _Written | Trial | Verification | Loaded) -> None:
        """Shows where the package lies, what it answered, whether it is whole, or what it was measured to take."""
        if isinstance(result, Loaded):
            self._measured.append(result)
            self._look()
        elif isinstance(result, Trial):
            self._tried.value, self.trial = trial_html(result), result
        elif isinstance(result, Verification):
            self._verified.value, self.verification = verification_html(result), result
        else:
            package, verification = result
            self._fingerprint = verification.fingerprint
            self._view.value = package_html(package, self._fingerprint)
            self._verified.value, self._tried.value = verification_html(verification), ""
            self.verification, self.trial, self.package = verification, None, package

    def code(self) -> tuple[str, str]:
        """The export as Python and as part of a recipe."""
        directory, key = (field.value.strip() for field in self._paths)
        changed = self.options.changed()
        return export_code(self.candidate.value or "", self.exporter.value, changed, directory, key, self._found)

    def summary(self) -> str:
        """The plan, where the package lies, whether it is whole and what it answered."""
        return self._view.value + self._verified.value + self._tried.value + self._plan.value

    @property
    def _paths(self) -> tuple[w.Text, w.Text]:
        return self.directory, self.sign_key

    def _row(self, verb: str) -> Row:
        if self.comparison is None or not self.candidate.value:
            raise ExportError(f"There is no measured candidate to {verb}.", "Measure in Compare first.")
        return self.comparison[self.candidate.value]

    def _sample(self) -> Dataset:
        if self.evaluation is None:
            raise DatasetError("There is no sample for the package's sample request.", "Load evaluation samples.")
        return self.evaluation

    def _gather(self, row: Row) -> Gathered:
        curve = Loaded(self.curve_engine, Measurements(curve=self.curve)) if self.curve_engine else None
        sweep = Loaded(self.sweep_engine, Measurements(sweep=self.sweep)) if self.sweep_engine else None
        return gather(row, self.exporter.value, self._measured, curve, sweep)

    def _prepare_measuring(self) -> Work:
        row, options, dataset = self._row("measure"), self.measuring.values, self.evaluation
        candidate, exporter = row.candidate, self.exporter.value
        check_backend(candidate, exporter)
        self.update_seconds = 1.0  # updates of the page would disturb the timing

        def work(progress: Progress) -> Loaded:
            kept = self.open_workspace()
            found = measure_for_package(candidate, exporter, dataset, options, workspace=kept, progress=progress)
            return Loaded(candidate.engine, found)

        return work

    def _prepare_later(self, verb: str, work: Any) -> Work:
        package = self.package
        if package is None:
            raise ExportError(f"There is no package to {verb}.", "Export one first.")
        self.update_seconds = Panel.update_seconds
        return lambda progress: work(package, progress)

    def _swap(self) -> None:
        self._slot.children = [self.options]
        self._look()

    def _list(self) -> None:
        names = [row.name for row in self.comparison.rows] if self.comparison else []
        chosen = self.candidate.value
        self.candidate.options = names
        if names:
            wanted = (self.choice.name if self.choice else None, chosen, names[0])
            self.candidate.value = next(name for name in wanted if name in names)
        if self.package is None:
            self._view.value = _markup.empty(_NEXT if names else _FIRST)
        self._look()

    def _look(self) -> None:
        """Shows the numbers that a package of the candidate would have, and whether it could be written at all."""
        self._found, self.plan, self._plan.value, self._refusal.value = None, None, "", ""
        if self.comparison is None or self.candidate.value not in {row.name for row in self.comparison.rows}:
            return
        row = self.comparison[self.candidate.value]
        self._found = self._gather(row)
        self.plan = plan_package(row.candidate, self.exporter.value, self._found.measurements)
        heading = _markup.group(f"Serving plan of {row.name}")
        self._plan.value = heading + _markup.note(self._found.words) + plan_html(self.plan)
        try:
            check_backend(row.candidate, self.exporter.value)
        except ExportError as error:
            self._refusal.value = _markup.warning(str(error))
        self._show_code()

    def _set_state(self, state: str) -> None:
        """A step is done when there is a package, not when something was measured for one."""
        super()._set_state("idle" if state == "done" and self.package is None else state)

    def _offer(self) -> None:
        running = self.state == "running"
        self.measure_button.disabled = running or self.comparison is None
        self.verify_button.disabled = running or self.package is None
        self.try_button.disabled = running or not (self.package and self.package.command)


def _verify(package: Package, progress: Progress, fingerprint: str = "") -> Verification:
    return verify_package(package.directory, fingerprint=fingerprint, progress=progress)
