"""Samples and labels: what fits a model, what does not, and files that nobody should trust."""

from __future__ import annotations

import io
import random
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.dataset import Dataset, check_labels, read_npz
from workbench.errors import DatasetError
from workbench.importers import load_dataset
from workbench.model import Model

Write = Callable[..., Path]


def samples(count: int = 6, **changes: Any) -> Dataset:
    inputs = {"x": np.ones((count, 4), np.float32)}
    return Dataset(**{"inputs": inputs, "labels": np.arange(count) % 3, "name": "data", **changes})


def test_a_file_gives_samples_and_labels(npz: Write) -> None:
    dataset = load_dataset(npz(x=np.ones((5, 4), np.float32), labels=np.arange(5)), "evaluation")

    assert (len(dataset), dataset.name) == (5, "data.npz")
    assert dataset.inputs["x"].shape == (5, 4)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]


def test_labels_are_optional(npz: Write) -> None:
    assert read_npz(npz(x=np.ones((5, 4), np.float32))).labels is None


def test_the_bundled_samples_that_calibrate_do_not_score(digits: Model) -> None:
    calibration, evaluation = (load_dataset("sample:digits", split) for split in ("calibration", "evaluation"))

    calibration.check_fits(digits)
    evaluation.check_fits(digits)
    assert (len(calibration), len(evaluation)) == (128, 697)
    assert not {image.tobytes() for image in calibration.inputs["image"]} & {
        image.tobytes() for image in evaluation.inputs["image"]
    }


def test_samples_come_in_batches_the_last_one_shorter() -> None:
    assert [len(batch["x"]) for batch in samples(7).batches(3)] == [3, 3, 1]


def test_a_part_keeps_its_labels() -> None:
    part = samples().take(2)

    assert part.labels is not None
    assert (len(part), part.labels.tolist()) == (2, [0, 1])
    assert len(samples().take(100)) == 6


def test_the_hash_follows_the_content_only() -> None:
    changed = np.ones((6, 4), np.float32)
    changed[5, 3] = 2

    assert samples().sha256 == samples(name="another name").sha256
    assert samples().sha256 != samples(inputs={"x": changed}).sha256
    assert samples().sha256 != samples(labels=None).sha256
    assert samples().sha256 != samples(inputs={"x": np.ones((6, 2, 2), np.float32)}).sha256


# --- samples that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"y": np.ones((6, 4), np.float32)}, ["'y'", "takes 'x'", "Name each array like the model's input"]),
        ({"x": np.ones((6, 4), np.float32), "z": np.ones((6, 4))}, ["'x', 'z'"]),
        ({"x": np.ones((6, 4))}, ["float64", "takes float32", "astype('float32')"]),
        ({"x": np.ones((6, 4), np.uint8)}, ["uint8", "takes float32"]),
        ({"x": np.ones((6, 5), np.float32)}, ["6×5", "batch×4"]),
        ({"x": np.ones((6, 4, 1), np.float32)}, ["6×4×1", "batch×4"]),
        ({"x": np.ones(6, np.float32)}, ["shape 6 ", "batch×4"]),
        ({"x": np.full((6, 4), np.nan, np.float32)}, ["NaN or infinite"]),
        ({"x": np.full((6, 4), np.inf, np.float32)}, ["NaN or infinite"]),
    ],
)
def test_samples_that_do_not_fit_the_model(tiny: Model, inputs: dict[str, np.ndarray], words: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        samples(inputs=inputs).check_fits(tiny)
    assert caught.value.remedy
    for word in ("data", "tiny" if "NaN" not in words[0] else "'x'", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.arange(5)}, ["x: 6, labels: 5"]),
        ({"inputs": {"x": np.ones((6, 4)), "y": np.ones((7, 4))}, "labels": None}, ["x: 6, y: 7"]),
        ({"inputs": {}, "labels": None}, ["no arrays"]),
        ({"inputs": {"x": np.ones((0, 4))}, "labels": None}, ["x: 0"]),
        ({"inputs": {"x": np.array(3.0)}, "labels": None}, ["x: 0"]),
        ({"labels": np.array(3)}, ["labels: 0"]),
        ({"labels": np.array(["cat"] * 6)}, ["labels of data are of type <U3", "Give numbers"]),
        ({"labels": np.array([None] * 6)}, ["of type object"]),
    ],
)
def test_samples_that_do_not_fit_each_other(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        samples(**changes)
    for word in ("data", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label: int) -> None:
    labels = np.array([0, 1, 2, 0, 1, label])
    with pytest.raises(DatasetError, match=rf"data run from .*{label}.*has 3 classes \(0 to 2\)"):
        check_labels(samples(labels=labels), 3)


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 6), np.eye(6, dtype=np.int64), np.zeros(6, bool)])
def test_labels_that_are_no_classes(labels: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"The labels of data have shape .*Give one class number per sample"):
        check_labels(samples(labels=labels), 3)


@pytest.mark.parametrize("labels", [np.zeros(6), np.zeros((6, 4, 4), np.uint8), np.zeros((6, 2, 5), np.float32)])
def test_targets_masks_and_boxes_are_labels_too(npz: Write, labels: np.ndarray) -> None:
    dataset = read_npz(npz(x=np.ones((6, 4), np.float32), labels=labels))

    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.take(2).labels.shape == (2, *labels.shape[1:])  # type: ignore[union-attr]


def test_a_label_that_does_not_count_may_lie_outside() -> None:
    labels = np.array([0, 1, 255, 2, 255, 0])
    assert check_labels(samples(labels=labels), 3, ignored=255) is labels
    with pytest.raises(DatasetError, match="from 0 to 255"):
        check_labels(samples(labels=labels), 3)


def test_labels_that_are_missing() -> None:
    with pytest.raises(DatasetError, match=r"data has no labels.*Add an array 'labels'"):
        check_labels(samples(labels=None), 3)


# --- files that cannot be read -------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_npz(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "There is no file" in refused(tmp_path / "none.npz")
    assert "There is no file" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", bytes(100)])
def test_a_file_that_holds_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    assert "numpy.savez" in refused(tmp_path / "data.npz")


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones(3))
    assert "not a readable .npz file" in refused(tmp_path / "data.npy")


def test_a_zip_of_other_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    refused(tmp_path / "data.npz")


class Trap:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_inside_does_not_run(tmp_path: Path, npz: Write) -> None:
    path = npz(x=np.array([Trap(tmp_path / "ran")], dtype=object))

    assert "not a readable .npz file of plain arrays" in refused(path)
    assert not (tmp_path / "ran").exists()


def test_a_header_that_promises_more_than_any_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    refused(tmp_path / "data.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_never_give_anything_but_words(tmp_path: Path, save: Callable[..., None]) -> None:
    buffer, path = io.BytesIO(), tmp_path / "data.npz"
    save(buffer, x=np.arange(300, dtype=np.float32).reshape(3, 100), labels=np.arange(3))
    random_numbers = random.Random(6)
    refusals = 0
    for _ in range(600):
        damaged = bytearray(buffer.getvalue())
        for _ in range(random_numbers.randint(1, 4)):
            damaged[random_numbers.randrange(len(damaged))] = random_numbers.randrange(256)
        path.write_bytes(
            damaged[: random_numbers.randrange(len(damaged))] if random_numbers.random() < 0.3 else damaged
        )
        try:
            read_npz(path)
        except DatasetError:
            refusals += 1
    assert refusals > 300


def test_the_command_line_says_it_in_a_paragraph(
    npz: Write, command_line: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    npz(image=np.ones((4, 1, 32, 32)), labels=np.arange(4))
    ended = command_line("accuracy", "sample:digits", "--data", "data.npz")

    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "'image' in data.npz is float64 where digits_cnn takes float32." in ended.stderr
