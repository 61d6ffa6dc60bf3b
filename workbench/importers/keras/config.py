"""Reads what a Keras file is made of, and refuses what could run code, before Keras builds anything of it."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from workbench.archive import check_archive
from workbench.errors import TRUST, ModelError
from workbench.importers._tensorflow.words import listed, reason_of
from workbench.model_file import shown

_MOST = 64 * 2**20  # bytes of a config; the largest models have some MB
_RATIO, _SLACK = 64, 256 * 2**20  # HDF5 may unpack to this times its size, and to this much anyway
_AGAIN = "Copy or save it again, and compare sizes if it was copied."

# Layers that run what the file brings along: Python code, or another model by its path.
_CODE = {"Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "__typespec__"}
# Parts of Keras that a model's config may name; the others fetch, save or load things.
_PARTS = {
    *("layers", "models", "initializers", "regularizers", "constraints", "activations", "optimizers", "losses"),
    *("metrics", "ops", "random", "dtype_policies", "mixed_precision", "quantizers", "engine", "legacy", "backend"),
}
_LEGACY = ("layers", "models", "initializers", "regularizers", "constraints", "activations", "dtype_policies")
_LIBRARIES = {"keras_hub", "keras_cv", "keras_nlp"}  # Keras imports these itself, where they are installed
_PLAIN = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
_PLAIN |= {"TensorShape", "function", "Functional", "Sequential", "Model", "DTypePolicyMap", "InputSpec"}


def read_config(path: Path) -> Any:
    """The architecture in a `.keras` or `.h5` file, as plain data.

    Raises:
        ModelError: It is no such file, is damaged or made to harm, or holds weights only.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    if not start:
        raise ModelError(f"{path} is empty (0 bytes).", _AGAIN)
    if start == b"\x89HDF\r\n\x1a\n":
        return _config_of_hdf5(path)
    if start[:2] != b"PK":
        raise ModelError(f"{path} is neither a .keras archive nor an HDF5 file of Keras.", _AGAIN)
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise ModelError(
                f"{path} is a zip archive, but not of a Keras model: it has no config.json.",
                "Save the model with model.save('name.keras').",
            )
        config = _parse(path, _read(path, archive.open("config.json")))
        for name in names:
            if name.endswith((".h5", ".hdf5")):
                with _hdf5_in_words(path), archive.open(name) as weights:
                    _check_hdf5(path, weights, archive.getinfo(name).file_size)
    return config


def check_config(path: Path, config: Any, trust: bool) -> None:
    """Refuses an architecture that brings code along, or that needs classes which are not Keras' own.

    Raises:
        ModelError: The message names them and where they stand.
    """
    code, custom = [], []
    if isinstance(config, dict):  # losses and metrics are not loaded, so they may be the user's own
        config = {key: value for key, value in config.items() if key not in ("compile_config", "training_config")}
    for part, where in _parts(config, ""):
        kind = str(part["class_name"])
        names = f"{kind}{where}"
        if kind in _CODE:
            code.append(names)
        elif _path_in(part):
            code.append(f"{kind}{where}, which reads the file '{_path_in(part)}'")
        elif not _is_keras(part, trust):
            custom.append(names)
    if code and not trust:
        raise ModelError(
            f"{path} brings along code or other files that would run here: {listed(code)}.",
            f"Build the model without them, or export it as a SavedModel; if the file is your own, use {TRUST}.",
        )
    if custom:
        raise ModelError(
            f"{path} uses classes that are not part of Keras: {listed(custom)}.",
            "Where they are defined, load it with custom_objects and export it with model.export(folder): "
            "a SavedModel needs no classes.",
        )


def check_legacy_names(path: Path, config: Any) -> None:
    """Refuses classes of an `.h5` file, which gives names alone, that this Keras does not have.

    Raises:
        ModelError: The message names them and where they stand.
    """
    import keras

    spaces = [getattr(keras, name) for name in _LEGACY]
    unknown = [
        f"{part['class_name']}{where}"
        for part, where in _parts(config, "")
        if "module" not in part
        and part["class_name"] not in _PLAIN | _CODE
        and not any(hasattr(space, str(part["class_name"])) for space in spaces)
    ]
    if unknown:
        raise ModelError(
            f"{path} uses classes that Keras {keras.__version__} does not have: {listed(unknown)}.",
            "Where they are defined (or in the Keras that saved it), load it with custom_objects and export it as a "
            "SavedModel folder.",
        )


def _config_of_hdf5(path: Path) -> Any:
    import h5py

    with _hdf5_in_words(path):
        with path.open("rb") as stream:
            _check_hdf5(path, stream, path.stat().st_size)
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            weights = "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file
    if config is None:
        raise ModelError(
            f"{path} holds weights only, not the model that they belong to."
            if weights
            else f"{path} is an HDF5 file, but not of a Keras model.",
            "Build the model, load the weights into it, and save it whole with model.save('name.keras').",
        )
    return _parse(path, config if isinstance(config, bytes) else str(config).encode())


@contextlib.contextmanager
def _hdf5_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    # What h5py raises on damage.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} holds damaged HDF5: {reason_of(error)}.", _AGAIN) from None


def _check_hdf5(path: Path, stream: IO[bytes], size: int) -> None:
    """Refuses HDF5 that reaches into other files, or unpacks to far more than its size; reads no values."""
    import h5py

    total = 0
    with h5py.File(stream, "r") as file:
        waiting = [file["/"]]
        seen = set()
        while waiting:
            group = waiting.pop()
            for name in group:
                if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                    _refuse_outside(path, name)
                value = group.get(name)
                if isinstance(value, h5py.Group) and value.id not in seen:
                    seen.add(value.id)
                    waiting.append(value)
                elif isinstance(value, h5py.Dataset):
                    if value.external or value.is_virtual:
                        _refuse_outside(path, name)
                    total += value.nbytes
    if total > _RATIO * size + _SLACK:
        raise ModelError(
            f"{path} is refused: its weights of {size:,} bytes would unpack to {total:,}.",
            "Get the file from its maker; Keras saves no such file.",
        )


def _refuse_outside(path: Path, name: str) -> None:
    raise ModelError(
        f"{path} keeps '{shown(name)}' in another file.",
        "Such a file could read anything on this machine, so it is refused; save the model again.",
    )


def _read(path: Path, stream: IO[bytes]) -> bytes:
    with stream:
        try:
            content = stream.read(_MOST + 1)
        except Exception as error:  # zlib's, lzma's and zipfile's classes share no base
            raise ModelError(f"{path} is damaged: {reason_of(error)}.", _AGAIN) from None
    return content


def _parse(path: Path, content: bytes) -> Any:
    if len(content) > _MOST:
        raise ModelError(
            f"{path} describes its layers in more than {_MOST:,} bytes.", "No Keras model needs that much."
        )
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is damaged: its description of the layers is no JSON.", _AGAIN) from None
    if not isinstance(config, dict) or "class_name" not in config:
        raise ModelError(f"{path} does not describe a Keras model.", _AGAIN)
    return config


def _parts(config: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object in a config, with the layer that it stands in."""
    waiting = [(config, where)]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                place = f" ('{inner['name']}')"
            if "class_name" in value:
                yield value, place
            waiting += [(part, place) for part in value.values()]
        elif isinstance(value, list):
            waiting += [(part, place) for part in value]


def _is_keras(part: dict[str, Any], trust: bool) -> bool:
    """Whether an object of a config names something of Keras; without a module, the name is looked up later."""
    if "module" not in part:
        return ">" not in str(part.get("registered_name", "")) and ">" not in str(part["class_name"])
    module, registered = part["module"], part.get("registered_name")
    if module is None or (isinstance(registered, str) and ">" in registered):
        return False
    names = str(module).split(".")
    if part["class_name"] == "function" and module == "builtins":
        return isinstance(part.get("config"), str) and part["config"].isidentifier()
    if names[0] in _LIBRARIES:
        return trust
    rest = names[2:] if names[1:2] == ["src"] else names[1:]
    return names[0] == "keras" and (not rest or rest[0] in _PARTS)


def _path_in(part: dict[str, Any]) -> str:
    """A vocabulary given as a path, which the layer would read wherever it lies."""
    inner = part.get("config")
    value = inner.get("vocabulary") if isinstance(inner, dict) else None
    return value if isinstance(value, str) else ""
