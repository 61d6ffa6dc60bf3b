"""The Monitor panel: a running service live beside its bench, a canary's verdict, and load to try it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._bokeh import BokehPane
from widgets._form import FIELD_WIDTH, LABEL_STYLE, OptionsForm
from widgets._monitor_code import USUAL_VARIABLE, monitor_code
from widgets._monitor_side import SideWork
from widgets._monitor_view import canary_html, load_html, moment_html
from widgets._panel import Panel, Work
from widgets._plots_monitor import MonitorPlots
from workbench.dataset import Dataset
from workbench.errors import ExportError, ServiceError
from workbench.exporters import Package
from workbench.jobs import Progress
from workbench.package_host import Serving, host_package
from workbench.service.load import ServiceLoad, ServiceLoadOptions, load_service
from workbench.service.metrics import ServiceStats
from workbench.service.watch import Moment, WatchOptions, read_key, watch_service

SAMPLES, REQUEST, RANDOM = "evaluation samples", "the package's sample request", "random values"

_EMPTY = (
    "Give the address of a running service, or of a Prometheus that watches some, and press Watch. "
    "To try it, start an exported package here first."
)


class Monitor(Panel):
    """Watches a service until it is stopped; beside that it can start a package, and send load."""

    title = "Monitor"
    hint = "Requests, latency, errors and batches of a running service, live, beside what the bench measured."
    verb = "Watch"
    icon = "eye"
    update_seconds = 0.5

    package = t.Instance(Package, allow_none=True, help="What can be started here.")
    curve = t.Tuple(help="LoadStats of the same candidate at rising rates, from the bench.")
    evaluation = t.Instance(Dataset, allow_none=True, help="Samples to send.")
    stats = t.Instance(ServiceStats, allow_none=True, help="What happened between the last two readings.")
    load = t.Instance(ServiceLoad, allow_none=True, help="What came of the last load.")

    def __init__(self, **traits: Any) -> None:
        self._key = ""
        self._hosted: Serving | None = None
        self._make_fields()
        self.options = OptionsForm(WatchOptions, without=("seconds",))
        self.load_options = OptionsForm(ServiceLoadOptions, without=("model", "version"))
        self.host = SideWork(
            "Start the package",
            "Stop the package",
            "power-off",
            self._prepare_host,
            lambda _: None,
            tooltip="Start the exported package on 127.0.0.1; it ends with this panel",
        )
        self.sender = SideWork(
            "Send load",
            "Stop load",
            "paper-plane",
            self._prepare_load,
            self._show_load,
            tooltip="Send requests to the service",
        )
        self.plots = MonitorPlots()
        self.panes = [BokehPane(figure, label=label) for label, figure in self.plots.figures.items()]
        self._view, self._canary_view, self._load_view = w.HTML(_markup.empty(_EMPTY)), w.HTML(), w.HTML()
        self._views = w.Box(self.panes, layout=w.Layout(display="none"))
        self._views.add_class("wb-views")
        form = w.VBox([self.address, self.key, self.key_variable, self.options, self.canary_folder])
        trial = [w.HTML(_markup.group("Try it")), self.host, self.send_to, self.source, self.load_options, self.sender]
        seen = w.VBox([self._view, self._canary_view, self._load_view], layout=w.Layout(flex="1 1 320px"))
        tried = w.VBox(trial)
        result = w.Box([seen, tried])
        for widget, name in ((result, "wb-columns"), (seen, "wb-result"), (tried, "wb-form")):
            widget.add_class(name)
        super().__init__(form, result, self._views, **traits)
        self._cancel_button.description = "Stop watching"
        self._bar.layout.display = "none"  # watching has no end that could be near
        self.key.observe(self.guard(self._take_key), "value")
        self.canary_folder.observe(self.guard(self._show_canary), "value")
        self.observe(lambda _: self._offer(), ("package", "evaluation"))
        self.observe(lambda _: self.plots.compare_with(self.curve), "curve")
        self.host.observe(lambda _: self._offer(), "state")
        self.plots.compare_with(self.curve)
        self._offer()

    def prepare(self) -> Work:
        """Reads the form."""
        address, options = self._wanted(self.address.value), {**self.options.values, "seconds": 0}
        key = self._find_key(address)
        self.plots.clear()
        self._view.value = _markup.empty("Waiting for the second reading.")

        def work(progress: Progress) -> tuple[Moment, ...]:
            return watch_service(address, options, key=key, progress=progress, watch=self._take)

        return work

    def show(self, result: tuple[Moment, ...]) -> None:
        """Everything is shown as it comes."""

    def code(self) -> tuple[str, str]:
        """Watching and load as Python; a recipe has no step for them."""
        sources = {SAMPLES: "dataset=evaluation", REQUEST: "package=package"}
        address = self.address.value.strip()
        loaded = self.send_to.value.strip() or address
        variable = self.key_variable.value.strip() or (
            USUAL_VARIABLE if self._key or self._host_of(address).key else ""
        )
        load = self._load_of(loaded, self.load_options.changed())
        source = sources.get(self.source.value, "")
        return monitor_code(address, self.options.changed(), loaded, load, source, variable), ""

    def cancelled_words(self) -> str:
        """What became of what was seen."""
        return "stopped; what was seen stays"

    def summary(self) -> str:
        """The last moment, the canary and the load, without scripts."""
        return self._view.value + self._canary_view.value + self._load_view.value

    def close(self) -> None:
        """Stops everything that it had started."""
        if hasattr(self, "host"):  # it also runs for one that could not be made
            self._stop.set()
            self.sender.stop()
            self.host.stop()
        super().close()

    def _make_fields(self) -> None:
        field: dict[str, Any] = {
            "style": LABEL_STYLE,
            "layout": w.Layout(width=FIELD_WIDTH),
            "continuous_update": False,
        }
        self.address = w.Text(description="Address", placeholder="http://127.0.0.1:8000", **field)
        self.key = w.Password(description="API key", placeholder="if it wants one", **field)
        self.key_variable = w.Text(description="Key variable", placeholder=USUAL_VARIABLE, **field)
        self.canary_folder = w.Text(description="Canary folder", placeholder="of a canary package", **field)
        self.send_to = w.Text(description="Send to", placeholder="the address above", **field)
        field.pop("continuous_update")
        self.source = w.Dropdown(description="Requests", options=[RANDOM], **field)
        self.address.tooltip = "Of a service, or of a Prometheus that watches some"
        self.key_variable.tooltip = "Environment variable of the kernel that holds the key"
        self.send_to.tooltip = "Address of the service, where a Prometheus is watched"

    def _take(self, moment: Moment) -> None:
        """Shows one moment; runs in the thread that watches."""
        self.plots.add(moment)
        self._views.layout.display = ""
        self._view.value = moment_html(moment, self.curve)
        if moment.stats is not None:
            self.stats = moment.stats
        self._show_canary()

    def _show_canary(self) -> None:
        try:
            self._canary_view.value = canary_html(self.canary_folder.value)
        except Exception as error:  # whatever a folder holds, watching goes on
            self._canary_view.value = _markup.problem(error)

    def _prepare_host(self) -> Work:
        package = self.package
        if package is None:
            raise ExportError("There is no package to start.", "Export one first.")

        def work(progress: Progress) -> None:
            try:
                with host_package(package, progress=progress) as serving:
                    self._hosted, self.address.value = serving, serving.url
                    while True:
                        progress(0.0, f"running at {serving.url}")
                        time.sleep(0.1)
            finally:
                self._hosted = None

        return work

    def _prepare_load(self) -> Work:
        address = self._wanted(self.send_to.value or self.address.value)
        key, options = self._find_key(address), self._load_of(address, self.load_options.values)
        sources: dict[str, dict[str, Any]] = {
            SAMPLES: {"dataset": self.evaluation},
            REQUEST: {"package": self.package},
        }
        source = sources.get(self.source.value, {})
        return lambda progress: load_service(address, options, key=key, progress=progress, **source)

    def _show_load(self, load: ServiceLoad) -> None:
        self._load_view.value = load_html(load)
        self.load = load

    def _load_of(self, address: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Options of load: the model that is watched, and where the package that runs here answers gRPC."""
        options = {**self._of_model(), **chosen}
        if options.get("tensors") == "grpc" and not options.get("grpc_port") and self._host_of(address).grpc_port:
            options["grpc_port"] = self._host_of(address).grpc_port
        return options

    def _of_model(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.changed().items() if name in ("model", "version")}

    def _wanted(self, address: str) -> str:
        if not address.strip():
            raise ServiceError("There is no address.", "Give that of a running service, e.g. http://127.0.0.1:8000.")
        return address.strip()

    def _take_key(self) -> None:
        """Keeps the key here and empties the field: what a field holds is saved with the notebook."""
        if self.key.value:
            self._key, self.key.value = self.key.value, ""
            self.key.placeholder = "given; not shown, not saved"

    def _find_key(self, address: str) -> str:
        return self._host_of(address).key or self._key or read_key(self.key_variable.value.strip())

    def _host_of(self, address: str) -> Serving:
        """The package that runs here, if that is its address; else one that has neither key nor gRPC."""
        return self._hosted if self._hosted is not None and address == self._hosted.url else Serving("", 0)

    def _offer(self) -> None:
        chosen = self.source.value
        there = ((SAMPLES, self.evaluation), (REQUEST, self.package))
        self.source.options = [*(name for name, found in there if found is not None), RANDOM]
        self.source.value = chosen if chosen in self.source.options and chosen != RANDOM else self.source.options[0]
        self.host.start_button.disabled = not (self.package and self.package.command) or self.host.state == "running"
