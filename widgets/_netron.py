"""The Netron graph viewer as a widget: no server, no port, and nothing leaves the page."""

from __future__ import annotations

import functools
import gzip
import importlib.metadata
import importlib.resources
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from workbench.errors import ModelError
from workbench.report import format_bytes
from workbench.skeleton import without_weights

MAX_BYTES = 200_000_000  # of a file that is sent with its weights: the page holds it in memory several times

_NETRON = "9.3"  # its modules are used directly, and they differ between minor versions
_INSTALL = f"Run: pip install 'netron=={_NETRON}.*'"
_PIECE_BYTES = 4_000_000
_HERE = pathlib.Path(__file__).parent
# What every model needs, and ONNX; the rest follows when Netron asks for it.
_START = (
    *("index.html", "grapher.css", "base.js", "browser.js", "dagre.js", "flatbuffers.js", "grapher.js", "json.js"),
    *(
        "protobuf.js",
        "text.js",
        "view.js",
        "xml.js",
        "zip.js",
        "onnx.js",
        "onnx-proto.js",
        "onnx-schema.js",
        "onnx-metadata.json",
    ),
)
_OURS = ("frame.js", "frame.css", "layout.js", "window.js")  # sent along as workbench-frame.js and so on
_INSIDE_FOLDER = ("saved_model.pb", "saved_model.pbtxt", "model.json")  # what Netron reads of a model that is a folder


class NetronView(anywidget.AnyWidget):
    """Shows the graph of a model in Netron.

    Netron's scripts come from the installed package and travel, with the model, over the widget's own channel into a
    sandboxed frame that cannot reach the network. It therefore works wherever widgets do: JupyterLab, standalone
    Voila, under a base URL with a token, offline. An ONNX model is sent without its weights; every other format that
    Netron reads is sent as it is, which `note` says.

    Problems are shown in the widget, in `status` and `message`, rather than raised.

    Args:
        path: The model to show at once; the same as calling `load`.
        height: Height in pixels.
    """

    _esm = _HERE / "_netron.js"
    _css = _HERE / "_graph.css"

    height = traitlets.Int(480, min=120, help="Height in pixels.").tag(sync=True)
    name = traitlets.Unicode(help="File name of the loaded model.").tag(sync=True)
    note = traitlets.Unicode(help="What was sent to the page.").tag(sync=True)
    selected = traitlets.List(
        traitlets.Dict(), help="Selected nodes, each as {'name': ..., 'type': ...}; set by the page."
    ).tag(sync=True)
    colors = traitlets.Dict(
        key_trait=traitlets.Unicode(), value_trait=traitlets.Unicode(), help="Node name to CSS colour."
    ).tag(sync=True)
    legend = traitlets.Dict(help="What the colours mean: {'title', 'entries': [{'color', 'text'}]}.").tag(sync=True)
    query = traitlets.Unicode(help="Words of which a node's name and operator hold all; others fade.").tag(sync=True)
    focus = traitlets.Unicode(
        help="Name of the node to select and scroll to; the page sets it to the selected one."
    ).tag(sync=True)
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
        self.on_msg(self._answer)
        if path is not None:
            self.load(path)

    def load(self, path: str | pathlib.Path) -> None:
        """Shows the graph of the model at `path`: a file, or the folder of a SavedModel."""
        self.clear()
        problem = _problem_with_netron()
        if problem:
            self._fail(problem)
            return
        self.status = "loading"
        try:
            path = _find_file(pathlib.Path(path))
            self._model = _read(path)
        except ModelError as error:
            self._fail(str(error))
            return
        except OSError as error:
            self._fail(f"{path} cannot be read: {error.strerror}.")
            return
        with self.hold_sync():
            self.name = path.name
            self.note = "" if _is_onnx(path) else f"{format_bytes(len(self._model))}, sent whole"
            self.status = "ready"
            self._revision += 1

    def clear(self) -> None:
        """Goes back to the empty state."""
        self._model = b""
        with self.hold_sync():
            self.name = self.note = self.focus = self.query = self.message = ""
            self.selected = []
            self.colors = {}
            self.legend = {}
            self.status = "empty"

    def offer(self, name: str, content: bytes) -> None:
        """Has every page that shows this download a file."""
        self.send({"download": name}, buffers=[content])

    def _fail(self, message: str) -> None:
        with self.hold_sync():
            self.message = message
            self.status = "error"

    def _answer(self, _widget: object, request: dict[str, Any], _buffers: list[memoryview]) -> None:
        """Sends a page what it asks for: Netron's start, one more of its files, or a piece of the model."""
        wanted, answer = request.get("want"), {"id": request.get("id"), "revision": self._revision}
        if wanted == "netron":
            buffer = start_files()
        elif wanted == "file":
            buffer = netron_file(str(request.get("name"))).encode()
        elif wanted == "model":
            offset = max(int(request.get("offset") or 0), 0)
            buffer = self._model[offset : offset + _PIECE_BYTES]
            answer["total"] = len(self._model)
        else:
            return
        self.send(answer, buffers=[buffer])


def _problem_with_netron() -> str:
    try:
        version = importlib.metadata.version("netron")
    except importlib.metadata.PackageNotFoundError:
        return f"The graph viewer Netron is not installed. {_INSTALL}"
    if not version.startswith(f"{_NETRON}."):
        return f"The graph viewer needs Netron {_NETRON}, but {version} is installed. {_INSTALL}"
    return ""


def _find_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_dir():
        inside = next((path / name for name in _INSIDE_FOLDER if (path / name).is_file()), None)
        if inside is None:
            raise ModelError(
                f"{path} is a folder without {' or '.join(_INSIDE_FOLDER)}.", "Give the model file itself."
            )
        return inside
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", "Check the path.")
    if not reads(path.name):
        remedy = "Convert the model to ONNX first."
        raise ModelError(f"{path.name} cannot be drawn: Netron reads no {path.suffix or 'such'} files.", remedy)
    return path


def _read(path: pathlib.Path) -> bytes:
    if _is_onnx(path):
        return without_weights(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(
            f"{path.name} has {format_bytes(size)}, and only ONNX can be sent to the page without its weights.",
            f"Convert it to ONNX, or open it in Netron's own program; {format_bytes(MAX_BYTES)} is the most here.",
        )
    return path.read_bytes()


def _is_onnx(path: pathlib.Path) -> bool:
    return path.suffix.lower() == ".onnx"


def reads(name: str) -> bool:
    """Whether Netron takes a file of that name for a model; only its content decides in the end."""
    return name.lower().endswith(_endings())


@functools.cache
def _endings() -> tuple[str, ...]:
    """What names of model files end with, from the table of Netron's own `ModelFactoryService`."""
    table = re.findall(r"this\.register\('\./\w+', (\[.*)\);", netron_file("view.js"))
    return tuple({ending for line in table for ending in re.findall(r"'(\.?[\w.]+)'", line)})


def netron_file(name: str) -> str:
    """The text of one of Netron's scripts or tables; empty if it has none of that name."""
    file = importlib.resources.files("netron") / name
    return file.read_text("utf-8") if re.fullmatch(r"[\w-]+\.(js|json|html|css)", name) and file.is_file() else ""


def pack(replaced: Mapping[str, str] | None = None) -> bytes:
    """What starts Netron in a page, by name, as compressed JSON; `replaced` texts take the place of Netron's."""
    texts = {name: netron_file(name) for name in _START}
    texts |= {f"workbench-{name}": (_HERE / f"_netron_{name}").read_text("utf-8") for name in _OURS}
    return gzip.compress(json.dumps({**texts, **(replaced or {})}).encode(), compresslevel=6, mtime=0)


start_files = functools.cache(pack)
