"""Reads PyTorch's files without running anything in them, and fits the weights to the module that they belong to."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from workbench.archive import check_archive
from workbench.errors import TRUST, ModelError, OptionsError
from workbench.functions import find_function, first_sentence

if TYPE_CHECKING:
    import torch

Kind: TypeAlias = Literal["weights", "safetensors", "program", "torchscript"]
Weights: TypeAlias = "Mapping[str, torch.Tensor]"

_DAMAGED = "The file is damaged or cut short; save it again, and compare sizes if it was copied."
_SAVE = "Save it again with torch.save(model.state_dict(), path), and compare sizes if it was copied."
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that files from before PyTorch 1.6 begin with
_SAFE_WAY = (
    "Save model.state_dict() instead and give the function that builds the module as `factory`, or export it to ONNX "
    f"where it was trained. If you made the file yourself: {TRUST}."
)
_RUNS_CODE: dict[Kind, str] = {
    "program": "is a .pt2 program: opening one unpickles, which can run any code that its maker put in",
    "torchscript": "is a TorchScript archive: opening one runs code that comes with it",
}
_HARMLESS = "num_batches_tracked"  # a counter that old checkpoints lack and inference does not read
_FEW = 3  # names in a message


def kind_of(path: Path) -> Kind:
    """Tells PyTorch's formats apart by what is in the file; suffixes say little, nothing is unpickled.

    Raises:
        ModelError: It is none of them, or an archive that is damaged or refused.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"PK"):
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()} | set(archive.namelist())
        if names & {"archive_format", "serialized_exported_program.json"}:
            return "program"
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            return "torchscript"
        if "data.pkl" in names:
            return "weights"
        raise ModelError(f"{path} is a zip archive without a PyTorch model in it.", _SAVE)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if _LEGACY in head:
        return "weights"
    what = "is empty (0 bytes)" if not size else f"is not a whole {path.suffix.lower()} file of PyTorch"
    raise ModelError(f"{path} {what}.", _DAMAGED if path.suffix.lower() == ".safetensors" else _SAVE)


def require_trust(path: Path, kind: Kind, trust: bool) -> None:
    """Refuses what cannot be opened without running code that comes with it.

    Raises:
        ModelError: It is such a file and the user has not said that he trusts it.
    """
    if kind in _RUNS_CODE and not trust:
        raise ModelError(f"{path} {_RUNS_CODE[kind]}.", _SAFE_WAY)


def read_content(path: Path, kind: Kind, trust: bool) -> Any:
    """Reads a file of weights: a mapping of tensors, perhaps in others; a whole module only with trust.

    Raises:
        ModelError: It is damaged, or holds objects that only running code can make.
    """
    import pickle

    import torch

    if kind == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"{path} is no complete .safetensors file ({first_sentence(error)}).", _DAMAGED) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = r"(?:Unsupported (?:class|operand)[^`]*?GLOBAL |global )`?([\w.]+)"
        foreign = re.search(named, str(error), re.IGNORECASE)
        if not trust and foreign:
            raise ModelError(
                f"{path} holds more than tensors: {foreign[1]}, which only running code from the file can restore.",
                _SAFE_WAY,
            ) from None
        if not trust:
            raise _unreadable(path, error) from None
    except Exception as error:  # bytes that are not what they should be raise anything
        if not trust:
            raise _unreadable(path, error) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"{path} needs a class that cannot be found here ({first_sentence(error)}).",
            "Put its module where Python finds it, or save model.state_dict() and give a factory.",
        ) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read as a PyTorch file ({first_sentence(error)}).", _DAMAGED)


# --- the module ----------------------------------------------------------------------------------------------------


def call_factory(factory: str, arguments: str) -> torch.nn.Module:
    """Calls the user's own function that builds the module.

    Args:
        factory: `package.module:function` or `folder/file.py:function`.
        arguments: Its keyword arguments as a JSON object; none if empty.

    Raises:
        OptionsError: There is no such function, or it does not give a module.
    """
    import torch

    function = find_function(factory, "factory")
    try:
        keywords = json.loads(arguments or "{}")
        if not isinstance(keywords, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise OptionsError(f"`arguments` is no JSON object: {error}.", 'Write it like {"classes": 10}.') from None
    try:
        module = function(**keywords)
    except Exception as error:
        raise OptionsError(
            f"The factory {factory} fails: {type(error).__name__}: {first_sentence(error)}.",
            "Mend it, or give what it needs as `arguments`, a JSON object of keyword arguments.",
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise OptionsError(
            f"The factory {factory} gives a {type(module).__name__}, not a torch.nn.Module.",
            "Name the function or class that builds the module.",
        )
    return module


def describe_weights(path: Path, content: Any) -> str:
    """Says what a file of weights holds: how many tensors, and the first few."""
    found = list(_weights_in(content, ""))
    if not found:
        raise _no_weights(path, content)
    _, weights = max(found, key=lambda entry: len(entry[1]))
    few = ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        for name, value in list(weights.items())[:_FEW]
    )
    return f"{len(weights)} tensors: {few}{', …' if len(weights) > _FEW else ''}"


def load_weights(module: torch.nn.Module, path: Path, content: Any) -> list[str]:
    """Puts the weights of a file into the module that they belong to.

    Returns:
        What had to be looked past on the way, in sentences.

    Raises:
        ModelError: The file holds no weights, or those of another module.
    """
    expected: Weights = module.state_dict(keep_vars=True)
    found = list(_weights_in(content, ""))
    if not found:
        raise _no_weights(path, content)
    fitted = [(place, *_without_prefix(weights, expected)) for place, weights in found]
    place, weights, prefix = max(fitted, key=lambda entry: len(set(entry[1]) & set(expected)))
    _check_fit(path, weights, expected)
    module.load_state_dict(weights, strict=False)
    notes = [f"The weights are those under '{place}' in the file."] if place else []
    return notes + ([f"The names of the weights begin with '{prefix}', which was left out."] if prefix else [])


def _weights_in(content: Any, place: str) -> Iterator[tuple[str, Weights]]:
    """Mappings of names to tensors, which training scripts wrap in others beside the optimizer's state."""
    import torch

    if not isinstance(content, Mapping) or "param_groups" in content:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors and len(tensors) * 2 >= len(content):
        yield place, tensors
    if place.count(".") < 2:
        for name, value in content.items():
            yield from _weights_in(value, f"{place}.{name}" if place else str(name))


def _without_prefix(weights: Weights, expected: Weights) -> tuple[Weights, str]:
    """Leaves out what wrappers put before every name, such as `module.` (DataParallel) or `_orig_mod.` (compile)."""
    prefix = ""
    while weights and not set(weights) & set(expected):
        first = next(iter(weights)).partition(".")[0] + "."
        if first == "." or not all(name.startswith(first) and name != first for name in weights):
            break
        weights, prefix = {name[len(first) :]: value for name, value in weights.items()}, prefix + first
    return (weights, prefix) if prefix and set(weights) & set(expected) else (weights, "")


def _check_fit(path: Path, weights: Weights, expected: Weights) -> None:
    shared = {id(expected[name]) for name in weights if name in expected}  # tied weights may stand there once
    missing = [
        name
        for name, value in expected.items()
        if name not in weights and id(value) not in shared and not name.endswith(_HARMLESS)
    ]
    unknown = [name for name in weights if name not in expected]
    other = [
        f"{name} ({list(weights[name].shape)} in the file, {list(value.shape)} in the module)"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:_FEW])}{', …' if len(names) > _FEW else ''}"
        for names, what in (
            (missing, "missing in the file"),
            (unknown, "unknown to the module"),
            (other, "of another shape"),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"The weights in {path} do not fit the module that the factory builds; {'; '.join(faults)}.",
            "Build the module as it was when the weights were saved: the same classes, sizes and number of layers "
            "(`arguments` gives them to the factory).",
        )


def _no_weights(path: Path, content: Any) -> ModelError:
    if isinstance(content, Mapping):
        held = f"its entries are {', '.join(map(repr, list(content)[:8]))}" if content else "it is empty"
        if "param_groups" in content:
            held = "it is the state of an optimizer"
    else:
        held = f"it holds a {type(content).__name__}"
    return ModelError(f"{path} holds no weights by name: {held}.", "Save the module's weights: model.state_dict().")
