"""The Export panel: writes the chosen candidate as a serving package, and tries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._panel import Panel, Work
from workbench.choice import Choice
from workbench.comparison import Comparison
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ExportError
from workbench.exporters import Package, export_package
from workbench.jobs import Progress
from workbench.plugins import find_plugin, list_plugins
from workbench.report import format_size
from workbench.trial import Trial, try_package

_USUAL = "server"  # offered first


class Export(Panel):
    """Packs one measured candidate; "Try it" starts the package and sends it its sample request."""

    title = "Export"
    hint = "Writes a folder that runs as it is: model, server, sample request, checksums, Dockerfile."
    verb = "Export"
    icon = "archive"

    comparison = t.Instance(Comparison, allow_none=True)
    choice = t.Instance(Choice, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    package = t.Instance(Package, allow_none=True)

    def __init__(self, **traits: Any) -> None:
        exporters = [plugin.name for plugin in list_plugins("exporters") if plugin.available]
        exporters.sort(key=lambda name: name != _USUAL)
        style, width = LABEL_STYLE, w.Layout(width=FIELD_WIDTH)
        self.candidate = w.Dropdown(description="Candidate", options=[], style=style, layout=width)
        self.exporter = w.Dropdown(description="Package", options=exporters, style=style, layout=width)
        self.directory = w.Text(description="Folder", placeholder="in the workspace", style=style, layout=width)
        self._forms = {name: OptionsForm(find_plugin("exporters", name).Options) for name in exporters}
        self._slot = w.VBox()
        self.try_button = w.Button(
            description="Try it",
            icon="paper-plane",
            disabled=True,
            tooltip="Start the package on this machine and send it its sample request",
        )
        self._view = w.HTML(_markup.empty("Measure candidates first; the chosen one can then be exported."))
        self._trial = w.HTML()
        form = w.VBox([self.candidate, self.exporter, self.directory, self._slot])
        super().__init__(form, w.VBox([self._view, self._trial]), **traits)
        self.add_action(self.try_button)
        self.exporter.observe(lambda _: self._swap(), "value")
        self.try_button.on_click(lambda _: self.start_trial())
        self.observe(lambda _: self._list(), ("comparison", "choice"))
        self.observe(lambda _: self._offer_trial(), ("package", "state"))
        self._swap()
        self._list()

    @property
    def options(self) -> OptionsForm:
        """The form of the chosen exporter."""
        return self._forms[self.exporter.value]

    def prepare(self) -> Work:
        """Reads the form."""
        if self.comparison is None or not self.candidate.value:
            raise ExportError("There is no measured candidate to export.", "Measure in Compare first.")
        if self.evaluation is None:
            raise DatasetError("There is no sample for the package's sample request.", "Load evaluation samples.")
        row, sample = self.comparison[self.candidate.value], self.evaluation
        exporter, options = self.exporter.value, self.options.values
        directory = Path(self.directory.value) if self.directory.value.strip() else None

        def work(progress: Progress) -> Package:
            return export_package(
                row.candidate,
                exporter,
                options,
                sample=sample,
                measured=row,
                directory=directory,
                workspace=self.open_workspace(),
                progress=progress,
            )

        return work

    def start_trial(self) -> Panel:
        """Starts the package, sends its sample request, and stops it again."""
        return self.start(self._prepare_trial)

    def show(self, result: Package | Trial) -> None:
        """Shows where the package lies, or what it answered."""
        if isinstance(result, Trial):
            answer = f"{result.status} in {result.milliseconds:.1f} ms, {result.verdict}"
            self._trial.value = _markup.facts({"Asked": result.url, "Answered": answer})
            return
        self._view.value = _markup.facts(_describe(result))
        self._trial.value = ""
        self.package = result

    def code(self) -> tuple[str, str]:
        """The export as Python and as part of a recipe."""
        changed = self.options.changed()
        folder = self.directory.value.strip()
        arguments = [f"row.candidate, {self.exporter.value!r}", *([repr(changed)] if changed else [])]
        arguments += ["sample=evaluation", "measured=row", *([f"directory={folder!r}"] if folder else [])]
        python = (
            f"import workbench as wb\n\nrow = comparison[{self.candidate.value or ''!r}]\n"
            f"package = wb.export_package({', '.join(arguments)})"
        )
        if find_plugin("exporters", self.exporter.value).COMMAND:
            python += "\nprint(wb.try_package(package))"
        recipe: dict[str, Any] = {"exporter": self.exporter.value, "options": changed, "directory": folder}
        recipe = {key: value for key, value in recipe.items() if value}
        return python, yaml.safe_dump({"export": recipe}, sort_keys=False)

    def summary(self) -> str:
        """Where the package lies and what it answered."""
        return self._view.value + self._trial.value

    def _prepare_trial(self) -> Work:
        package = self.package
        if package is None:
            raise ExportError("There is no package to try.", "Export one first.")
        return lambda progress: try_package(package, progress=progress)

    def _swap(self) -> None:
        self._slot.children = [self.options]

    def _list(self) -> None:
        names = [row.name for row in self.comparison.rows] if self.comparison else []
        self.candidate.options = names
        if self.choice and self.choice.name in names:
            self.candidate.value = self.choice.name
        if names and self.package is None:
            self._view.value = _markup.empty("Press Export to write the package.")

    def _offer_trial(self) -> None:
        self.try_button.disabled = not (self.package and self.package.command) or self.state == "running"


def _describe(package: Package) -> dict[str, str]:
    files = [path for path in package.directory.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {
        "Package": f"{package.name}, from {package.candidate}",
        "Folder": str(package.directory),
        "Content": f"{len(files)} files, {format_size(size / 1e6)}",
        "Start it there": " ".join(package.command) or "nothing to start: its README.md says what takes it",
    }
