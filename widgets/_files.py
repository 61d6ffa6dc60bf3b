"""A file picker as a widget: a path box, a look into the server's folders, and uploads of any size."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import IO, Any

import anywidget
import traitlets

_GIB = 1024**3
_LISTED = 500  # entries of one folder; more are counted, not shown
_NAME_BYTES = 200  # leaves room below the 255 that file systems allow


class FilePick(anywidget.AnyWidget):
    """Lets the user choose a file on the server, or bring one there.

    A file can be typed, found by browsing, dragged in from JupyterLab's file browser, or uploaded from
    the user's computer. Uploads travel in small acknowledged pieces, as the server drops bigger messages
    without a word.

    Args:
        suffixes: Only files with these suffixes are listed and taken, such as ``(".onnx",)``; all when empty.
        uploads: Folder for uploaded files, made when needed; without it nothing can be uploaded.
        root: Folder that the user cannot leave; without it the whole file system of the server can be seen.
        label: What is being chosen.
        folders: Whether a folder can be chosen as well.
        max_bytes: Size limit of one upload.
    """

    _esm = pathlib.Path(__file__).with_suffix(".js")

    path = traitlets.Unicode(help="The chosen file, absolute; empty when there is none.").tag(sync=True)
    message = traitlets.Unicode(help="What was chosen, in words.").tag(sync=True)
    error = traitlets.Unicode(help="Why the last choice or upload failed.").tag(sync=True)
    label = traitlets.Unicode("File", help="What is being chosen.").tag(sync=True)
    _suffixes = traitlets.Tuple().tag(sync=True)
    _can_upload = traitlets.Bool(False).tag(sync=True)
    _folders = traitlets.Bool(False).tag(sync=True)
    _upload: _Upload | None = None

    def __init__(
        self,
        *,
        suffixes: Iterable[str] = (),
        uploads: str | pathlib.Path | None = None,
        root: str | pathlib.Path | None = None,
        label: str = "File",
        folders: bool = False,
        max_bytes: int = 2 * _GIB,
    ) -> None:
        super().__init__(label=label)
        self._suffixes = tuple(suffix.lower() for suffix in suffixes)
        self._can_upload = uploads is not None
        self._folders = folders
        self._uploads = pathlib.Path(uploads or ".").absolute()
        self._root = pathlib.Path(root).resolve() if root is not None else None
        self._max_bytes = max_bytes
        self.on_msg(self._answer)

    def choose(self, path: str | pathlib.Path) -> None:
        """Chooses a path as if the user had typed it: `path` or `error` says what came of it."""
        text = str(path).strip()
        if not text:
            self._set("", "")
            return
        try:
            self._accept(self._find(text))
        except (OSError, ValueError) as error:
            self._set("", "", _words(error))

    def close(self) -> None:
        """Drops an unfinished upload with the widget."""
        self._stop_upload()
        super().close()

    def _set(self, path: str, message: str, error: str = "") -> None:
        with self.hold_sync():
            self.path, self.message, self.error = path, message, error

    def _accept(self, path: pathlib.Path) -> None:
        if path.is_dir():
            if not self._folders:
                raise ValueError(f"{path} is a folder. Choose a file in it.")
            self._set(str(path), path.name)
            return
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        self._check_suffix(path.name)
        self._set(str(path), f"{path.name}, {_size(path.stat().st_size)}")

    def _check_suffix(self, name: str) -> None:
        if self._suffixes and not name.lower().endswith(self._suffixes):
            raise ValueError(f"{name} is of another kind. Choose a file that ends in {', '.join(self._suffixes)}.")

    def _start(self) -> pathlib.Path:
        """The folder that relative paths and the listing start from."""
        return self._root or pathlib.Path.cwd()

    def _inside(self, path: pathlib.Path) -> pathlib.Path:
        path = pathlib.Path(os.path.normpath(path.absolute()))
        if self._root is not None and not path.resolve().is_relative_to(self._root):
            raise ValueError(f"{path} is outside {self._root}. Choose a file inside it.")
        return path

    def _find(self, text: str) -> pathlib.Path:
        """Finds what was typed or dragged in: JupyterLab names files from its own root, with a drive at times."""
        typed = pathlib.Path(text).expanduser()
        start = self._start()
        places = [start / typed]
        if not typed.is_absolute():
            without_drive = text.split(":", 1)[-1].lstrip("/")
            places += [folder / without_drive for folder in (start, *start.parents)]
        return self._inside(next((place for place in places if place.exists()), places[0]))

    def _answer(self, _widget: object, request: dict[str, Any], buffers: list[memoryview]) -> None:
        answers = {
            "choose": self._on_choose,
            "list": self._on_list,
            "start": self._on_start,
            "piece": self._on_piece,
            "end": self._on_end,
            "cancel": self._on_cancel,
        }
        answer = answers.get(str(request.get("do")))
        if answer is None:
            return
        try:
            reply = answer(request, buffers)
        except (OSError, ValueError, KeyError, TypeError) as error:  # what a page sends is not to be trusted
            reply = {"error": _words(error)}
            if answer != self._on_list:  # the listing shows its own errors
                self.error = _words(error)
        self.send({"id": request.get("id"), **reply})

    def _on_choose(self, request: dict[str, Any], _buffers: list[memoryview]) -> dict[str, Any]:
        self.choose(str(request["path"]))
        return {}

    def _on_list(self, request: dict[str, Any], _buffers: list[memoryview]) -> dict[str, Any]:
        folder = self._inside(self._start() / str(request.get("path", "")))
        entries = []
        with os.scandir(folder) as found:
            for entry in found:
                is_folder = entry.is_dir()
                wanted = is_folder or not self._suffixes or entry.name.lower().endswith(self._suffixes)
                if wanted and not entry.name.startswith("."):
                    entries.append((not is_folder, entry.name.lower(), entry))
        entries.sort(key=lambda item: item[:2])
        return {
            "path": str(folder),
            "crumbs": self._crumbs(folder),
            "entries": [_row(entry) for _, _, entry in entries[:_LISTED]],
            "more": max(0, len(entries) - _LISTED),
        }

    def _crumbs(self, folder: pathlib.Path) -> list[dict[str, str]]:
        """The folders above, outermost first, as far as the user may go."""
        chain = [folder, *folder.parents]
        if self._root is not None:
            chain = [place for place in chain if place.is_relative_to(self._root)]
        return [{"name": place.name or str(place), "path": str(place)} for place in reversed(chain)]

    def _on_start(self, request: dict[str, Any], _buffers: list[memoryview]) -> dict[str, Any]:
        self._stop_upload()  # of a page that went away
        self.error = ""
        if not self._can_upload:
            raise ValueError("Nothing can be uploaded here. Type the path of a file on the server.")
        name, size = _safe_name(str(request["name"])), int(request["size"])
        self._check_suffix(name)
        if size > self._max_bytes:
            raise ValueError(
                f"{name} has {_size(size)}; uploads end at {_size(self._max_bytes)}. "
                "Copy it to the server in another way and type its path."
            )
        self._upload = _Upload(self._uploads, name, size)
        return {}

    def _on_piece(self, request: dict[str, Any], buffers: list[memoryview]) -> dict[str, Any]:
        try:
            self._current_upload().write(int(request["offset"]), buffers[0])
        except (OSError, ValueError, IndexError) as error:
            self._stop_upload()
            raise ValueError(_words(error)) from error
        return {}

    def _on_end(self, _request: dict[str, Any], _buffers: list[memoryview]) -> dict[str, Any]:
        upload = self._current_upload()
        self._upload = None
        self._accept(upload.finish())
        return {}

    def _on_cancel(self, _request: dict[str, Any], _buffers: list[memoryview]) -> dict[str, Any]:
        self._stop_upload()
        return {}

    def _current_upload(self) -> _Upload:
        if self._upload is None:
            raise ValueError("The upload was stopped. Start it again.")
        return self._upload

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.discard()
            self._upload = None


class _Upload:
    """A file on its way: hidden until it is complete, then under a name that was free."""

    def __init__(self, folder: pathlib.Path, name: str, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name, self._size, self._written = folder, name, size, 0
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(  # noqa: SIM115 - it lives as long as the upload
            dir=folder, prefix=".upload-", suffix=".part", delete=False
        )

    def write(self, offset: int, piece: memoryview) -> None:
        if offset != self._written or offset + piece.nbytes > self._size:
            raise ValueError(f"A piece of {self._name} came in the wrong order. Upload it again.")
        self._written += self._file.write(piece)

    def finish(self) -> pathlib.Path:
        if self._written != self._size:
            self.discard()
            raise ValueError(f"{self._name} came only in part. Upload it again.")
        self._file.close()
        return pathlib.Path(self._file.name).replace(self._reserve())

    def discard(self) -> None:
        self._file.close()
        pathlib.Path(self._file.name).unlink(missing_ok=True)

    def _reserve(self) -> pathlib.Path:
        """Takes a name that no file has: `model.onnx`, `model-2.onnx` and so on."""
        stem, dot, suffix = self._name.partition(".")
        number = 1
        while True:
            path = self._folder / (self._name if number == 1 else f"{stem}-{number}{dot}{suffix}")
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                number += 1
            else:
                return path


def _safe_name(name: str) -> str:
    """The bare name of an uploaded file, whatever path the page claims."""
    bare = name.replace("\\", "/").rsplit("/", 1)[-1]
    bare = "".join(letter for letter in bare if letter.isprintable()).strip().lstrip(".")
    if not bare:
        raise ValueError(f"A file cannot be named {name!r}. Rename it and upload it again.")
    if len(bare.encode()) > _NAME_BYTES:
        raise ValueError("The name of the file is too long. Rename it and upload it again.")
    return bare


def _row(entry: os.DirEntry[str]) -> dict[str, Any]:
    if entry.is_dir():
        return {"name": entry.name, "path": entry.path, "folder": True, "size": ""}
    try:
        size = _size(entry.stat().st_size)
    except OSError:  # a dangling link
        size = ""
    return {"name": entry.name, "path": entry.path, "folder": False, "size": size}


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)
