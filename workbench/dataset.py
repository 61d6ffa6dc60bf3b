"""Samples to calibrate with and to score on, checked against a model before they are used."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import DatasetError
from workbench.model import Model, TensorSpec

_ROWS = 256  # samples checked at a time
LABELS = "labels"  # the key of an .npz file that holds the labels


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples, and their labels where there are any.

    Labels are plain numbers in the form of the task, samples along the first axis:

    - classification: class numbers, integers `(samples,)`
    - regression: targets, `(samples,)` or `(samples, …)` like the model's output
    - segmentation: the class of each pixel, integers `(samples, height, width)`
    - detection: boxes, `(samples, boxes, 5)`: x1, y1, x2, y2 in pixels and the class; rows of class −1 fill up

    Attributes:
        inputs: One array per model input, samples along the first axis.
        labels: As above, or None.
        name: For tables and messages.
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    name: str = "samples"

    def __post_init__(self) -> None:
        lengths = {name: len(array) if array.ndim else 0 for name, array in self.inputs.items()}
        if self.labels is not None:
            if self.labels.dtype.kind not in "biuf":
                raise DatasetError(
                    f"The labels of {self.name} are of type {self.labels.dtype}.",
                    "Give numbers: the class of each sample, targets, masks or boxes.",
                )
            lengths[LABELS] = len(self.labels) if self.labels.ndim else 0
        if self.inputs and len(set(lengths.values())) == 1 and 0 not in lengths.values():
            return
        counts = ", ".join(f"{name}: {count}" for name, count in lengths.items()) or "no arrays"
        empty = set(lengths.values()) <= {0}
        raise DatasetError(
            f"{self.name} {'holds no samples' if empty else 'does not have the same number of samples everywhere'} "
            f"({counts}).",
            "Give at least one sample, along the first axis of every array.",
        )

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @cached_property
    def sha256(self) -> str:
        """Hash of names, types, shapes and values."""
        digest = hashlib.sha256()
        arrays = {**self.inputs, **({} if self.labels is None else {LABELS: self.labels})}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, count: int) -> Dataset:
        """The first `count` samples (fewer if there are fewer)."""
        labels = None if self.labels is None else self.labels[:count]
        inputs = {name: array[:count] for name, array in self.inputs.items()}
        return dataclasses.replace(self, inputs=inputs, labels=labels)

    def batches(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Feeds of `size` samples, the last one shorter."""
        for start in range(0, len(self), size):
            yield {name: np.ascontiguousarray(array[start : start + size]) for name, array in self.inputs.items()}

    def check_fits(self, model: Model) -> None:
        """Compares names, types, shapes and values with what the model takes.

        Raises:
            DatasetError: On the first thing that does not fit.
        """
        wanted = {spec.name: spec for spec in model.inputs}
        if set(wanted) != set(self.inputs):
            raise DatasetError(
                f"{self.name} has {_names(self.inputs)} where {model.name} takes {_names(wanted)}.",
                "Name each array like the model's input.",
            )
        for name, array in self.inputs.items():
            self._check_array(model, wanted[name], array)

    def _check_array(self, model: Model, spec: TensorSpec, array: NDArray[Any]) -> None:
        if str(array.dtype) != spec.dtype:
            raise DatasetError(
                f"'{spec.name}' in {self.name} is {array.dtype} where {model.name} takes {spec.dtype}.",
                f"Convert it: array.astype('{spec.dtype}'), with the scaling that the model was trained with.",
            )
        sizes = [size if isinstance(size, int) and axis else None for axis, size in enumerate(spec.shape)]
        fits = array.ndim == len(sizes) and all(s in (None, a) for s, a in zip(sizes, array.shape, strict=True))
        if not fits:
            raise DatasetError(
                f"'{spec.name}' in {self.name} has shape {_shape(array.shape)} "
                f"where {model.name} takes {_shape(spec.shape)}.",
                "Reshape or resize the samples; the first axis counts them.",
            )
        finite = (np.isfinite(array[start : start + _ROWS]).all() for start in range(0, len(array), _ROWS))
        if np.issubdtype(array.dtype, np.floating) and not all(finite):
            raise DatasetError(
                f"'{spec.name}' in {self.name} holds NaN or infinite values.", "Remove or repair those samples."
            )


@dataclass(frozen=True)
class StoredDataset:
    """Samples in files of our own, for another process to read as it needs them instead of holding them all.

    Attributes:
        folder: Where the files are.
        inputs: Names of the inputs, in the order of the files.
        labels: As in `Dataset`.
        name: As in `Dataset`.
        sha256: As in `Dataset`.
    """

    folder: Path
    inputs: tuple[str, ...]
    labels: NDArray[Any] | None
    name: str
    sha256: str

    def open(self) -> Dataset:
        """The samples; they stay on disk until they are looked at."""
        arrays = {name: np.load(self.folder / f"{n}.npy", mmap_mode="r") for n, name in enumerate(self.inputs)}
        dataset = Dataset(arrays, self.labels, self.name)
        dataset.__dict__["sha256"] = self.sha256  # it is known already
        return dataset


def store(dataset: Dataset, folder: Path) -> StoredDataset:
    """Writes samples into a folder of our own; it must outlive whoever opens them."""
    folder.mkdir()
    for number, array in enumerate(dataset.inputs.values()):
        np.save(folder / f"{number}.npy", array, allow_pickle=False)
    return StoredDataset(folder, tuple(dataset.inputs), dataset.labels, dataset.name, dataset.sha256)


def require_labels(dataset: Dataset, form: str) -> NDArray[Any]:
    """Returns the labels.

    Args:
        dataset: Samples.
        form: What the labels should be, for the message.

    Raises:
        DatasetError: There are none.
    """
    if dataset.labels is None:
        raise DatasetError(
            f"{dataset.name} has no labels, so accuracy cannot be measured.", f"Add an array '{LABELS}' with {form}."
        )
    return dataset.labels


def check_labels(
    dataset: Dataset, classes: int, form: str = "one class number per sample", axes: int = 1, ignored: int | None = None
) -> NDArray[Any]:
    """Returns the labels after checking that they are class numbers below `classes`.

    Args:
        dataset: Samples with labels.
        classes: How many the model tells apart.
        form: What the labels should be, for the message.
        axes: How many axes they should have.
        ignored: A number beyond the classes that they may hold.

    Raises:
        DatasetError: There are none, they are no class numbers, or some lie outside.
    """
    labels = require_labels(dataset, form)
    if labels.ndim != axes or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"The labels of {dataset.name} have shape {_shape(labels.shape)} and type {labels.dtype}.",
            f"Give {form} (an integer), not one-hot rows or probabilities; or choose the task that they are for.",
        )
    counted = labels if ignored is None else labels[labels != ignored]
    low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, 0)
    if low < 0 or high >= classes:
        raise DatasetError(
            f"The labels of {dataset.name} run from {low} to {high}, but the model has {classes} classes "
            f"(0 to {classes - 1}).",
            "Number the classes from 0, as in training, and check that the model belongs to this data."
            + ("" if ignored is None else f" Pixels that do not count have the label {ignored}: see `ignore_label`."),
        )
    return labels


def read_npz(path: Path, *, name: str = "") -> Dataset:
    """Reads an `.npz` file: one array per model input, and `labels` where there are any. Nothing in it executes.

    Raises:
        DatasetError: The file is missing, unreadable or no such archive.
    """
    if not path.is_file():
        raise DatasetError(f"There is no file {path}.", "Check the path of the .npz file.")
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()}
    except _DAMAGE as error:
        raise DatasetError(
            f"{path} is not a readable .npz file of plain arrays ({_reason(error)}).",
            "Write it again with numpy.savez(path, input_name=array, labels=array).",
        ) from None
    labels = arrays.pop(LABELS, None)
    return Dataset(arrays, labels, name or path.name)


# What zipfile, zlib and numpy's header parser raise on bytes that are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    MemoryError,
)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or "cut short"


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in mapping) or "no arrays"


def _shape(shape: tuple[int | str, ...]) -> str:
    return "×".join(map(str, shape))
