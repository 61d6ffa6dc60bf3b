"""The Netron graph viewer as a widget: no server, no port, and nothing leaves the page."""

from __future__ import annotations

import functools
import gzip
import importlib.metadata
import importlib.resources
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import anywidget
import traitlets

from workbench.skeleton import without_weights

_NETRON = "9.3"  # its modules are used directly, and they differ between minor versions
_INSTALL = f"Run: pip install 'netron=={_NETRON}.*'"
_PAGE = ("index.html", "grapher.css")
_CORE = tuple(
    f"{name}.js"
    for name in (
        *("base", "browser", "dagre", "flatbuffers", "flexbuffers", "grapher", "hdf5", "json"),
        *("message", "protobuf", "python", "tar", "text", "view", "xml", "zip"),
    )
)


class _Format(NamedTuple):
    """What it takes to show one kind of model file."""

    files: tuple[str, ...]  # of Netron, on top of the core
    read: Callable[[pathlib.Path], bytes]


_ONNX = _Format(("onnx.js", "onnx-proto.js", "onnx-schema.js", "onnx-metadata.json"), without_weights)
_FORMATS = {".onnx": _ONNX}


class NetronView(anywidget.AnyWidget):
    """Shows the graph of a model in Netron.

    Netron's scripts come from the installed package and travel, with a copy of the model without its
    weights, over the widget's own channel into a sandboxed frame that cannot reach the network. It
    therefore works wherever widgets do: JupyterLab, standalone Voila, under a base URL with a token, offline.

    Problems are shown in the widget, in `status` and `message`, rather than raised.

    Args:
        path: The model to show at once; the same as calling `load`.
        height: Height in pixels.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    height = traitlets.Int(480, min=120, help="Height in pixels.").tag(sync=True)
    name = traitlets.Unicode(help="File name of the loaded model.").tag(sync=True)
    selected = traitlets.List(
        traitlets.Dict(), help="Selected nodes, each as {'name': ..., 'type': ...}; set by the page."
    ).tag(sync=True)
    colors = traitlets.Dict(
        key_trait=traitlets.Unicode(), value_trait=traitlets.Unicode(), help="Node name to CSS colour."
    ).tag(sync=True)
    focus = traitlets.Unicode(help="Name of the node to select and scroll to.").tag(sync=True)
    status = traitlets.Enum(
        ("empty", "loading", "ready", "opened", "error"),
        "empty",
        help="Nothing loaded, file being read, waiting for a page to show it, shown, or failed.",
    ).tag(sync=True)
    message = traitlets.Unicode(help="What went wrong and what to do, when `status` is 'error'.").tag(sync=True)
    _revision = traitlets.Int(0).tag(sync=True)  # tells every page to fetch the model anew

    def __init__(self, path: str | pathlib.Path | None = None, *, height: int = 480) -> None:
        super().__init__(height=height)
        self._model = b""
        self._format = _ONNX
        self.on_msg(self._answer)
        if path is not None:
            self.load(path)

    def load(self, path: str | pathlib.Path) -> None:
        """Shows the graph of the model file at `path`; its weights are not sent."""
        path = pathlib.Path(path)
        self.clear()
        problem = _problem_with_netron() or _problem_with_file(path)
        if problem:
            self._fail(problem)
            return
        self.status = "loading"
        self._format = _FORMATS[path.suffix.lower()]
        try:
            self._model = self._format.read(path)
        except (OSError, ValueError) as error:
            self._fail(str(error))
            return
        with self.hold_sync():
            self.name = path.name
            self.status = "ready"
            self._revision += 1

    def clear(self) -> None:
        """Goes back to the empty state."""
        self._model = b""
        with self.hold_sync():
            self.name = ""
            self.selected = []
            self.colors = {}
            self.focus = ""
            self.message = ""
            self.status = "empty"

    def _fail(self, message: str) -> None:
        with self.hold_sync():
            self.message = message
            self.status = "error"

    def _answer(self, _widget: object, request: dict[str, Any], _buffers: list[memoryview]) -> None:
        """Sends a page what it asks for: Netron itself, or the model."""
        wanted = request.get("want")
        if wanted == "netron":
            buffer = _netron_files(self._format.files)
        elif wanted == "model":
            buffer = self._model
        else:
            return
        self.send({"id": request.get("id"), "revision": self._revision}, buffers=[buffer])


def _problem_with_netron() -> str:
    try:
        version = importlib.metadata.version("netron")
    except importlib.metadata.PackageNotFoundError:
        return f"The graph viewer Netron is not installed. {_INSTALL}"
    if not version.startswith(f"{_NETRON}."):
        return f"The graph viewer needs Netron {_NETRON}, but {version} is installed. {_INSTALL}"
    return ""


def _problem_with_file(path: pathlib.Path) -> str:
    if not path.is_file():
        return f"There is no file {path}."
    if path.suffix.lower() not in _FORMATS:
        return f"{path.name} cannot be drawn: only {', '.join(_FORMATS)} files can. Convert the model to ONNX first."
    return ""


@functools.cache
def _netron_files(files: tuple[str, ...]) -> bytes:
    """Packs Netron's own files, by name, as compressed JSON."""
    folder = importlib.resources.files("netron")
    texts = {name: (folder / name).read_text("utf-8") for name in (*_PAGE, *_CORE, *files)}
    texts["workbench-frame.js"] = pathlib.Path(__file__).with_name("_netron_frame.js").read_text("utf-8")
    return gzip.compress(json.dumps(texts).encode(), compresslevel=6)
