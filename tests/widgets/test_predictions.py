"""The Predictions panel: what a user sees of two real models that differ on known samples."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from bokeh.plotting import figure
from onnx import TensorProto, helper, numpy_helper

from tests.made import latency_of
from widgets import Predictions
from widgets._plots_confusion import confusion_data
from widgets._thumbnail import image_input, png, thumbnail
from workbench.backends import build_engine, predict
from workbench.comparison import Candidate, Comparison, Row
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ModelError
from workbench.importers import load_model
from workbench.measure.accuracy import accuracy_of, change_of, compare_predictions, score
from workbench.measure.environment import read_environment
from workbench.measure.statistics import Estimate
from workbench.model import Model
from workbench.workspace import Workspace

LABELS = np.arange(60) % 3
IMAGES = np.eye(3, dtype=np.float32)[LABELS][:, None, None, :] * np.ones((1, 1, 2, 1), np.float32)  # 2 × 3 pixels


def classifier(path: Path, rows: list[list[float]]) -> Model:
    """Sums the columns of a 1×2×3 image and maps their sums on three scores."""
    weight = numpy_helper.from_array(np.array(rows + rows, np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Three of class 2 are labelled otherwise: the candidate, which takes 2 for 1, gains one and loses the rest."""
    labels = LABELS.copy()
    labels[[2, 5, 8]] = [1, 0, 0]
    return Dataset({"image": IMAGES}, labels, "stripes")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Comparison:
    folder = tmp_path_factory.mktemp("models")
    models = {
        "original": classifier(folder / "a.onnx", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        "muddled <b>": classifier(folder / "b.onnx", [[1, 0, 0], [0, 1, 0], [0, 1, 0.5]]),
        "scaled": classifier(folder / "c.onnx", [[2, 0, 0], [0, 2, 0], [0, 0, 2]]),
    }
    rows = []
    outputs = {}
    for name, model in models.items():
        engine = build_engine(model)
        outputs[name] = predict(engine, data, workspace=Workspace(folder / "workspace"))
        scores = [score(each, data) for each in outputs.values()]
        same = Estimate(1, 0.9, 1.1)
        both = (outputs["original"], outputs[name])
        rows.append(
            Row(
                Candidate(name, engine),
                latency_of(1.0),
                same,
                same,
                same,
                accuracy=accuracy_of(scores[-1], data),
                change=change_of(scores[0], scores[-1]) if len(scores) > 1 else None,
                agreement=compare_predictions(*both) if len(scores) > 1 else None,
            )
        )
    return Comparison(tuple(rows), data.name, len(data), read_environment())


@pytest.fixture
def panel(comparison: Comparison, data: Dataset, tmp_path: Path) -> Iterator[Predictions]:
    """Shows the first candidate by itself, once it has what it needs."""
    made = Predictions(workspace=str(tmp_path), evaluation=data, comparison=comparison)
    made.wait()
    yield made
    made.close()


def shown(panel: Predictions) -> str:
    return re.sub(r"<style>.*?</style>", "", panel.summary(), flags=re.DOTALL)


def test_the_changed_samples_show_lost_ones_first(panel: Predictions) -> None:
    assert panel.error == ""
    assert panel.selected == "muddled <b>"
    assert [s.verdict for s in panel.samples] == ["lost"] * 17 + ["gained"] + ["changed"] * 2
    first = panel.samples[0]
    assert (first.number, first.label, first.before.text, first.after.text) == (11, "2", "2", "1")
    assert first.before.score == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert first.after.score == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))
    assert "20 of 60 predictions of muddled &lt;b&gt; changed: 17 lost, 1 gained, 2 neither." in shown(panel)
    assert "top-1: −26.67 points" in shown(panel)
    assert "more than chance explains (McNemar, p = 0.00014)" in shown(panel)


def test_pages_turn_and_the_filter_starts_again(panel: Predictions) -> None:
    assert (panel._place.value, shown(panel).count("<img")) == ("1–12 of 20", 12)
    panel._next.click()
    assert (panel._place.value, panel._next.disabled) == ("13–20 of 20", True)
    panel._back.click()
    assert (panel._place.value, panel._back.disabled) == ("1–12 of 20", True)
    panel._next.click()
    panel.filter.value = "gained"
    assert (shown(panel).count("<img"), panel._pages.layout.display) == (1, "none")
    assert [sample.number for sample in panel.samples] == [2]


def test_another_candidate_is_shown_when_it_is_selected(panel: Predictions) -> None:
    panel.selected = "scaled"
    panel.wait()

    assert "0 of 60 predictions of scaled changed." in shown(panel)
    assert "No prediction changed." in shown(panel)
    panel.filter.value = "lost"
    assert "No prediction was lost." in shown(panel)
    panel.selected = "original"  # it is compared with nothing: the panel stays where it was
    assert panel.candidate.value == "scaled"


def test_the_matrix_shows_what_is_taken_for_what(panel: Predictions) -> None:
    assert panel.matrix.layout.display == ""
    assert isinstance(panel.matrix.figure, figure)
    cells = panel.matrix.figure.renderers[0].data_source.data
    columns = [cells[key] for key in ("label", "taken", "count", "original")]
    counts = {(label, taken): (now, was) for label, taken, now, was in zip(*columns, strict=True)}
    assert counts[("2", "1")] == (17, 0)
    assert counts[("2", "2")] == (0, 17)
    assert counts[("1", "1")] == (21, 20)


def test_code_that_does_the_same_runs(panel: Predictions, comparison: Comparison, data: Dataset) -> None:
    printed: list[str] = []
    python, recipe = panel.code()
    exec(python, {"comparison": comparison, "evaluation": data, "print": lambda *words: printed.append(str(words))})

    assert len(printed) == 20
    assert printed[0].startswith("('lost', 11, '2', '2', '→', '1')")
    assert recipe == ""


def test_without_labels_nothing_is_lost(comparison: Comparison, data: Dataset, tmp_path: Path) -> None:
    plain = Dataset(data.inputs, name="stripes")
    rows = tuple(Row(row.candidate, row.latency, row.speedup, row.speedup, row.speedup) for row in comparison.rows)
    panel = Predictions(
        workspace=str(tmp_path), evaluation=plain, comparison=Comparison(rows, "stripes", 60, comparison.environment)
    )
    panel.wait()

    assert {sample.verdict for sample in panel.samples} == {"changed"}
    assert "20 of 60 predictions of muddled &lt;b&gt; changed." in shown(panel)
    assert panel.matrix.layout.display == "none"


def test_it_says_what_to_do_while_there_is_nothing(comparison: Comparison, data: Dataset) -> None:
    panel = Predictions()
    assert "Measure candidates in Compare" in panel.summary()
    with pytest.raises(ModelError, match="no candidate beside the original"):
        panel.start().wait()
    panel.comparison = comparison
    with pytest.raises(DatasetError, match="no samples"):
        panel.start().wait()
    assert "Load evaluation samples" in panel.error


def test_an_error_of_the_work_shows(comparison: Comparison, data: Dataset, tmp_path: Path) -> None:
    panel = Predictions(workspace=str(tmp_path), evaluation=data, comparison=comparison, accuracy={"task": "detection"})
    with pytest.raises(DatasetError, match="are no detections"):
        panel.wait()
    assert "Boxes (samples, boxes, 4)" in panel.error


def test_unknown_traits_are_refused() -> None:
    with pytest.raises(TypeError, match="Predictions has no sample"):
        Predictions(sample=1)


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((5, 1, 28, 28), (5, 28, 28, 1)),
        ((5, 3, 32, 16), (5, 32, 16, 3)),
        ((5, 32, 16, 3), (5, 32, 16, 3)),
        ((5, 4, 8, 8), None),
        ((5, 10), None),
    ],
)
def test_inputs_that_look_like_images_are_told(shape: tuple[int, ...], found: tuple[int, ...] | None) -> None:
    images = image_input({"ids": np.zeros((5, 7), np.int64), "image": np.zeros(shape, np.float32)})
    assert (None if images is None else images.shape) == found


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_holds_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    content = png(pixels)
    [packed] = re.findall(rb"IDAT(.*)\x00\x00\x00\x00IEND", content, re.DOTALL)

    assert content.startswith(b"\x89PNG")
    lines = np.frombuffer(zlib.decompress(packed[:-4]), np.uint8).reshape(5, 1 + 7 * channels)
    np.testing.assert_array_equal(lines[:, 1:].reshape(pixels.shape), pixels)


def test_a_large_or_constant_image_is_no_trouble() -> None:
    small = base64.b64decode(thumbnail(np.zeros((500, 300, 1), np.float32)).partition(",")[2])
    assert int.from_bytes(small[16:20]) <= 64
    assert int.from_bytes(small[20:24]) <= 64


def test_cells_without_samples_are_left_out() -> None:
    cells = confusion_data(np.diag([3, 0]), np.array([[2, 1], [0, 0]]))
    assert list(zip(cells["label"], cells["taken"], cells["text"], strict=True)) == [("0", "0", "3"), ("0", "1", "")]
