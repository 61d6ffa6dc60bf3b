"""A live Bokeh figure as a widget: BokehJS comes from the installed package, and nothing heavy is saved."""

from __future__ import annotations

import contextlib
import functools
import gzip
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import anywidget
import bokeh
import traitlets
from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.models.ui import UIElement
from bokeh.themes import Theme, built_in_themes

_LOGGER = logging.getLogger(__name__)
_SCRIPTS = pathlib.Path(bokeh.__file__).parent / "server" / "static" / "js"


class BokehPane(anywidget.AnyWidget):
    """Shows a Bokeh figure that stays joined to Python.

    Changes made in Python (streaming too) reach every page that shows the figure; selections, values of
    Bokeh widgets and subscribed events come back and run the figure's Python callbacks. A failing
    callback shows up in `error`. The figure follows JupyterLab's theme.

    A page fetches BokehJS and the figure when it shows them, so a saved notebook holds neither.

    Args:
        figure: The figure or layout to show, if there is one already; it cannot be in two panes at once.
        label: What the plot shows, for screen readers; by default the title of the figure.
        widgets: Whether the figure holds Bokeh's own widgets, tables included.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    label = traitlets.Unicode("plot", help="What the plot shows, for screen readers.").tag(sync=True)
    dark = traitlets.Bool(False, help="Whether the page is dark; set by the page.").tag(sync=True)
    error = traitlets.Unicode(help="Why the last callback of the figure failed.").tag(sync=True)
    _version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _scripts = traitlets.Tuple(("bokeh",)).tag(sync=True)
    _revision = traitlets.Int(0).tag(sync=True)  # tells every page to fetch the figure anew

    def __init__(self, figure: UIElement | None = None, *, label: str = "", widgets: bool = False) -> None:
        super().__init__()
        self._figure: UIElement | None = None
        self._document = Document()
        if widgets:
            self._scripts = ("bokeh", "bokeh-widgets", "bokeh-tables")
        self._held: list[DocumentPatchedEvent] | None = None
        self.on_msg(self._answer)
        if figure is not None:
            self.show(figure, label=label)

    @property
    def figure(self) -> UIElement | None:
        """The figure shown at present."""
        return self._figure

    def show(self, figure: UIElement, *, label: str = "") -> None:
        """Shows `figure` in place of the one before.

        Raises:
            ValueError: The figure is already shown somewhere else.
        """
        if figure is not self._figure:
            if figure.document is not None:
                raise ValueError("This figure is already shown elsewhere. Make a new one for each pane.")
            if self._figure is not None:
                self._document.remove_on_change(self._send_change)
                self._document.clear()  # frees the figure before, which may be shown again
            self._document = Document(theme=_theme(self.dark))
            self._document.add_root(figure)
            self._document.on_change(self._send_change)
            self._figure = figure
        with self.hold_sync():
            self.label = label or _title(figure) or "plot"
            self.error = ""
            self._revision += 1

    @traitlets.observe("dark")
    def _follow_theme(self, _change: object) -> None:
        with self._one_patch():
            self._document.theme = _theme(self.dark)

    @contextlib.contextmanager
    def _one_patch(self) -> Iterator[None]:
        """Sends all changes of the block together: a theme alone changes dozens of properties."""
        events: list[DocumentPatchedEvent] = []
        self._held = events
        try:
            yield
        finally:
            self._held = None
            self._send_patch(events)

    def _send_change(self, event: object) -> None:
        if not isinstance(event, DocumentPatchedEvent) or event.setter is self:
            return  # a change that came from a page must not go back to it
        if self._held is not None:
            self._held.append(event)
        else:
            self._send_patch([event])

    def _send_patch(self, events: list[DocumentPatchedEvent]) -> None:
        if not events:
            return
        models = self._document.models
        serializer = Serializer(references=models.synced_references, deferred=False)
        patch = serialize_json({"events": serializer.encode(events)})
        models.flush_synced(lambda model: not serializer.has_ref(model))
        self.send({"patch": patch, "revision": self._revision})

    def _answer(self, _widget: object, request: dict[str, Any], _buffers: list[memoryview]) -> None:
        """Sends a page what it asks for, or takes in what happened there."""
        wanted = request.get("want")
        if wanted == "bokehjs":
            self.send({"id": request.get("id")}, buffers=[_bokehjs(self._scripts)])
        elif wanted == "figure":
            document = serialize_json(self._document.to_json(deferred=False)) if self._figure else ""
            self.send({"id": request.get("id"), "document": document, "revision": self._revision})
        elif "patch" in request and request.get("revision") == self._revision:
            self._take_in(request["patch"])

    def _take_in(self, patch: Any) -> None:
        try:
            self._document.apply_json_patch(patch, setter=self)
        except Exception as error:  # a callback of the figure: it would vanish without a word
            _LOGGER.debug("a callback of the figure '%s' failed", self.label, exc_info=True)
            self.error = f"{type(error).__name__}: {error}"
        else:
            self.error = ""


def _title(figure: UIElement) -> str:
    text = getattr(getattr(figure, "title", None), "text", "")
    return text if isinstance(text, str) else ""


@functools.cache
def _theme(dark: bool) -> Theme:
    """Bokeh's minimal theme for a light or dark page, in Bokeh's usual type sizes and on the page's own background."""
    attributes = built_in_themes["dark_minimal" if dark else "light_minimal"]._json["attrs"]
    styles = {
        model: {name: value for name, value in style.items() if not name.endswith(("_font", "_font_size"))}
        for model, style in attributes.items()
    }
    styles["Plot"] = {**styles.get("Plot", {}), "background_fill_color": None, "border_fill_color": None}
    return Theme(json={"attrs": styles})


@functools.cache
def _bokehjs(scripts: tuple[str, ...]) -> bytes:
    texts = [(_SCRIPTS / f"{script}.min.js").read_text("utf-8") for script in scripts]
    return gzip.compress("\n;".join(texts).encode(), compresslevel=6)
