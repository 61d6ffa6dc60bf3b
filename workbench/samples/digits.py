"""The sample data: scikit-learn's handwritten digits as 32x32 images in three splits, and the model trained on them.

The 1797 images of `sklearn.datasets.load_digits` (8x8 pixels, values 0..16) come with scikit-learn, so nothing is
downloaded. They are enlarged four times by bilinear interpolation. Its weights are multiples of 1/8, which makes every
pixel exact in float32: the images are the same, bit for bit, on every machine.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.errors import DatasetError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_PATH = Path(__file__).with_name("digits_cnn.onnx")
CLASSES = tuple("0123456789")

Split = Literal["training", "calibration", "evaluation"]

_SPLITS: dict[Split, slice] = {
    "evaluation": slice(0, 697),
    "calibration": slice(697, 825),
    "training": slice(825, None),
}
_SEED = 2024
_SCALE = 4
_WHITE = 16.0


def load_split(name: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load one of the three splits: 972 training, 128 calibration and 697 evaluation images.

    No image is in two splits, and each split holds the digits in the proportions of the whole. The order within a split
    is fixed, and classes alternate in it, so a short prefix is a fair sample too. Writers are not kept apart: the same
    hand may be in all three.

    Args:
        name: `training` fits the weights, `calibration` sets quantization ranges, `evaluation` scores and does neither.

    Returns:
        Images, float32 (N, 1, 32, 32), 0 for paper and 1 for ink; labels, int64 (N,), 0 to 9.

    Raises:
        DatasetError: There is no split of that name.
        MissingDependencyError: scikit-learn, which holds the images, is not installed.
    """
    if name not in _SPLITS:
        raise DatasetError(f"There is no split '{name}' of the digits.", f"Choose one of {', '.join(_SPLITS)}.")

    import numpy as np

    pixels, labels = _read()
    chosen = _stratified_order(labels)[_SPLITS[name]]
    return _upscale(pixels[chosen].reshape(-1, 8, 8) / _WHITE), labels[chosen].astype(np.int64)


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels (1797, 64) and labels (1797,), as `sklearn.datasets.load_digits(return_X_y=True)` gives them.

    The file is read past that function where it lies at its usual place: importing scikit-learn takes two seconds.
    """
    import numpy as np

    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        message = "The sample images come with scikit-learn, which is not installed."
        raise MissingDependencyError(message, "Install it: pip install scikit-learn.")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels, labels
    with gzip.open(file, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def _stratified_order(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Shuffle all samples so that any run of the order holds the classes (labels (N,)) in proportion; indices (N,)."""
    import numpy as np

    random = np.random.RandomState(_SEED)  # its stream is frozen by NumPy; that of default_rng may change
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(position, kind="stable")


def _upscale(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Enlarge images (N, 8, 8) to (N, 1, 32, 32) by bilinear interpolation between pixel centres, edges repeated."""
    import numpy as np

    size = images.shape[-1]
    centres = (np.arange(size * _SCALE) + 0.5) / _SCALE - 0.5
    distance = np.abs(np.clip(centres, 0, size - 1)[:, None] - np.arange(size))
    weights = np.maximum(1 - distance, 0)  # (32, 8), rows sum to 1
    enlarged: NDArray[np.float32] = (weights @ images @ weights.T)[:, None].astype(np.float32)
    return enlarged
