"""The Build panel: makes an engine of a model on any backend, says first what will go wrong, and shows the log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._backends import backend_form
from widgets._build_facts import checks_html, engine_html, engine_name, precision_line
from widgets._build_log import LogView
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._latest import Latest
from widgets._panel import Panel, Work
from workbench.artifact import find_manifest
from workbench.backends import build_engine, check_build
from workbench.comparison import ORIGINAL
from workbench.engine import BuildCheck, Engine
from workbench.errors import ModelError, WorkbenchError
from workbench.graph import summarize_graph
from workbench.jobs import Progress
from workbench.model import Model
from workbench.plugins import find_plugin, list_plugins

_USUAL = "tensorrt"
_PROFILES = "profiles"
_EMPTY = "Choose a backend and press Build. An engine that was built before is found again."


class _Before(NamedTuple):
    """What is known before a build."""

    precision: str
    checks: tuple[BuildCheck, ...]


class Build(Panel):
    """Builds engines, of the original and its variants; what is built stays in `engines`."""

    title = "Build"
    hint = "Makes an engine of a model for one backend and device. The precision is the model's own."
    verb = "Build"
    icon = "cogs"

    model = t.Instance(Model, allow_none=True)
    variants = t.Tuple(help="Named models: (name, Model) each.")
    engines = t.Tuple(help="What was built: (name, Engine) each, the latest last.")
    checks = t.Tuple(help="BuildCheck each: what is known before the build.")

    def __init__(self, **traits: Any) -> None:
        plugins = list_plugins("backends")
        names = [plugin.name for plugin in plugins if plugin.available]
        self.variant, self.backend = (
            w.Dropdown(description=label, options=options, style=LABEL_STYLE, layout=w.Layout(width=FIELD_WIDTH))
            for label, options in (("Model", [ORIGINAL]), ("Backend", names))
        )
        self.backend.value = _USUAL if _USUAL in names else names[0]
        self._forms: dict[str, OptionsForm] = {}
        self._precisions: dict[Path, str] = {}
        self._options = w.VBox()
        absent = "\n".join(f"{plugin.name}: {plugin.reason}" for plugin in plugins if not plugin.available)
        self._before, self._facts, self._empty = w.HTML(), w.HTML(), w.HTML()
        self.log_view = LogView()
        self._looking: Latest[_Before] = Latest(self._show_before)
        form = w.VBox([self.variant, self.backend, self._options, *([w.HTML(_markup.note(absent))] if absent else [])])
        result = w.VBox([self._before, self._empty, self._facts])
        super().__init__(form, result, self.log_view, **traits)
        self.backend.observe(self.guard(self._choose_backend), "value")
        self.variant.observe(self.guard(self._look), "value")
        self.observe(lambda _: self._forget(), "model")
        self.observe(self.guard(self._list), "variants")
        self._choose_backend()
        self._forget()

    @property
    def options(self) -> OptionsForm:
        """The options of the chosen backend."""
        name = self.backend.value
        if name not in self._forms:
            form = backend_form(name, lines=[_PROFILES])
            form.observe(self.guard(self._look), "values")
            self._forms[name] = form
        return self._forms[name]

    def prepare(self) -> Work:
        """Reads the form."""
        model, name = self._model(), self.variant.value
        if model is None:
            raise ModelError("There is no model to build an engine of.", "Load one first.")
        backend, options = self.backend.value, self.options.values
        self.log_view.clear()

        def work(progress: Progress) -> tuple[str, Engine, bool]:
            begun = time.time()

            def report(fraction: float, message: str) -> None:
                self.log_view.flush()
                progress(fraction, message)

            try:
                engine = build_engine(model, backend, options, progress=report, log=self.log_view.say)
            finally:
                self.log_view.flush(force=True)
            found = find_manifest(engine) is not None and engine.path.stat().st_mtime < begun
            return name, engine, found

        return work

    def show(self, result: tuple[str, Engine, bool]) -> None:
        """Shows what came out and adds it to `engines`."""
        variant, engine, found = result
        self._facts.value = _markup.group("Engine") + engine_html(engine, found=found)
        self._empty.layout.display = "none"
        name = engine_name(variant, engine, self.engines)
        self.engines = (*(each for each in self.engines if each[0] != name), (name, engine))

    def wait_for_checks(self, timeout: float | None = None) -> tuple[BuildCheck, ...]:
        """Waits until the checks say what belongs to the form as it is, where no front end is there to watch."""
        self._looking.wait(timeout)
        return self.checks

    def code(self) -> tuple[str, str]:
        """Building as Python and on the command line, and as part of a recipe."""
        backend, options = self.backend.value, self.options.changed()
        model = "model" if self.variant.value == ORIGINAL else f"variants[{self.variant.value!r}]"
        arguments = f"{model}, {backend!r}{f', {options!r}' if options else ''}"
        lines = [
            "import workbench as wb",
            "",
            f"print(wb.checks_text(wb.check_build({arguments})))",
            f"engine = wb.build_engine({arguments}, log=print)",
            "print(wb.engine_text(engine))",
            "",
            f"# In a terminal: workbench build {backend} MODEL.onnx{_flags(options)}",
        ]
        recipe = {"backend": backend, **({"options": options} if options else {})}
        return "\n".join(lines), yaml.safe_dump(recipe, sort_keys=False)

    def summary(self) -> str:
        """The last engine, and what was known before, without scripts."""
        return (self._before.value + self._facts.value) if self._facts.value else super().summary()

    def _model(self) -> Model | None:
        return {ORIGINAL: self.model, **dict(self.variants)}.get(self.variant.value)

    def _choose_backend(self) -> None:
        self._options.children = [self.options]
        self._propose()
        self._look()

    def _forget(self) -> None:
        """Another model: what was built belongs to the one before."""
        self.engines, self._facts.value = (), ""
        self._empty.value = _markup.empty(_EMPTY if self.model else "Load a model first.")
        self._empty.layout.display = ""
        self.log_view.clear()
        for form in self._forms.values():
            if _PROFILES in form.values:
                form.set({_PROFILES: []})
        self._list()

    def _list(self) -> None:
        names, chosen = [ORIGINAL, *(name for name, _ in self.variants)], self.variant.value
        self.variant.options = names
        self.variant.value = chosen if chosen in names else ORIGINAL
        self._propose()
        self._look()

    def _propose(self) -> None:
        """Writes a profile into the form where a model has dynamic axes that the batch alone does not settle."""
        model, form = self._model(), self.options
        propose = getattr(find_plugin("backends", self.backend.value), "propose_profile", None)
        if model is None or propose is None or form.values.get(_PROFILES) or _only_batch_is_dynamic(model):
            return
        form.set({_PROFILES: [propose(model)]})

    def _look(self) -> None:
        """Asks what is known before the build; in a thread, as large graphs and libraries take a while."""
        model, backend, options = self._model(), self.backend.value, dict(self.options.values)
        self._show_code()
        if model is None:
            self._show_before(_Before("", ()))
            return
        self._looking.ask(lambda: _Before(self._precision(model), _check(model, backend, options)))

    def _precision(self, model: Model) -> str:
        if model.path not in self._precisions:  # a large graph takes seconds to sum up
            self._precisions[model.path] = precision_line(summarize_graph(model))
        return self._precisions[model.path]

    def _show_before(self, before: _Before) -> None:
        self.checks = before.checks
        listed = checks_html(before.precision, before.checks) if before.precision else ""
        self._before.value = _markup.group("Before the build") + listed if listed else ""


def _only_batch_is_dynamic(model: Model) -> bool:
    return not any(isinstance(size, str) for spec in model.inputs for size in spec.shape[1:])


def _check(model: Model, backend: str, options: Mapping[str, Any]) -> tuple[BuildCheck, ...]:
    """What the backend looked at; a refusal of an option is a check that says so."""
    try:
        return check_build(model, backend, options)
    except WorkbenchError as error:
        return (BuildCheck("refused", error.message, error.remedy),)


def _flags(options: Mapping[str, Any]) -> str:
    """Options as the command line takes them."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            words.append(f"--{flag} " + " ".join(f"'{v}'" if " " in str(v) else str(v) for v in values))
    return "".join(f" {word}" for word in words)
