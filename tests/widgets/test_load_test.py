"""The Load test panel: one load, a rising rate and a sweep, clicked headless on real engines."""

from __future__ import annotations

import json
import threading

import ipywidgets as w
import pytest
from bokeh.models import ColumnDataSource

from tests.loads import load_of, point_of, sweep_of
from widgets import LoadTest
from widgets._load_code import CURVE, LOAD, LOADGEN, SWEEP
from widgets._plots_load import LoadPlot, LoadStream, moment_data, step_data, sweep_data
from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError
from workbench.measure.load import LoadPoint
from workbench.measure.sweep import SweepPoint
from workbench.model import Model

QUICK = {
    LOAD: {"seconds": 0.3},
    LOADGEN: {"seconds": 0.3},
    CURVE: {"seconds": 0.2, "steps": 2},
    SWEEP: {"seconds": 0.1, "batches": [1, 2], "threads": [1], "instances": [1], "rounds": 0},
}


@pytest.fixture
def panel(digits: Model, evaluation: Dataset) -> LoadTest:
    made = LoadTest(model=digits, evaluation=evaluation, variants=(("copy", digits),))
    made.backend_options.set({"threads": 1})
    for mode, options in QUICK.items():
        made.forms[mode].set(options)
    return made


def shown(panel: LoadTest) -> str:
    """Every text that the panel shows."""
    texts, boxes = [], [panel]
    while boxes:
        box = boxes.pop()
        boxes += [child for child in getattr(box, "children", ()) if child.layout.display != "none"]
        texts += [box.value] if isinstance(box, w.HTML) else []
    return "".join(texts)


@pytest.mark.parametrize("mode", [CURVE, SWEEP])
def test_each_kind_measures_and_shows(panel: LoadTest, mode: str) -> None:
    panel.mode.value = mode
    assert "Press Measure" in shown(panel)
    assert panel.start().wait().state == "done"

    assert "/s" in shown(panel)
    assert panel.plot.figure is not None
    assert len(panel.table.rows) == 2
    json.dumps(panel.table.rows, allow_nan=False)
    assert mode in panel.summary()
    assert "<script" not in panel.summary()


@pytest.mark.parametrize("mode", [LOAD, SWEEP, LOADGEN])
def test_the_code_does_what_the_button_does(panel: LoadTest, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    panel.mode.value, panel.candidate.value = mode, "copy"
    python, recipe = panel.code()
    names = {"model": None, "variants": panel.variants, "evaluation": panel.evaluation}
    exec(python, names)

    assert recipe == ""
    assert "/s" in capsys.readouterr().out
    panel.show(names["found"])
    assert "/s" in shown(panel)


def test_without_a_model_it_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="Load one first"):
        LoadTest().start().wait()


def test_an_option_it_cannot_have_is_refused_in_words(panel: LoadTest) -> None:
    panel.mode.value = SWEEP
    panel.forms[SWEEP]["batches"].value = "1, many"
    with pytest.raises(OptionsError, match="batches"):
        panel.start().wait()
    assert "batches" in panel.error


def test_a_cancel_leaves_the_result_before(panel: LoadTest) -> None:
    panel.stats = before = load_of(100, 2)
    panel.forms[LOAD].set({"seconds": 60})
    moving = threading.Event()
    panel._status.observe(lambda change: moving.set() if "under load" in change.new else None, "value")
    panel.start()
    assert moving.wait(60)
    panel.cancel()

    assert panel.wait(60).state == "cancelled"
    assert panel.stats is before
    assert "100 queries/s" in shown(panel)


def test_the_knee_is_marked_and_told(panel: LoadTest) -> None:
    panel.mode.value = CURVE
    panel.curve = (load_of(100, 1), load_of(200, 1.2), load_of(300, 4))

    assert [row["mark"] for row in panel.table.rows] == ["", "◆", ""]
    assert "The knee is at 200 queries/s" in shown(panel)


def test_the_sweet_spot_follows_the_limit_without_measuring_again(panel: LoadTest) -> None:
    panel.mode.value = SWEEP
    panel.sweep = sweep_of(point_of(1, 100, 10), point_of(16, 200, 80), SweepPoint(32, 1, 1, "failed", "It hung."))
    assert [row["mark"] for row in panel.table.rows] == ["★", "", ""]
    panel.spot.set({"max_latency_ms": 20.0})

    assert [row["mark"] for row in panel.table.rows] == ["", "★", ""]
    assert "With at most 20 ms" in shown(panel)
    assert "batch 32, 1 thread, 1 instance failed: It hung." in shown(panel)


def test_every_kind_keeps_its_own_result(panel: LoadTest) -> None:
    panel.stats, panel.curve = load_of(100, 2), (load_of(150, 1), load_of(200, 1.2))
    assert "100 queries/s" in shown(panel)
    panel.mode.value = CURVE
    assert "100 queries/s" not in shown(panel)
    panel.mode.value = SWEEP
    assert "Press Measure" in shown(panel)
    panel.mode.value = LOAD
    assert "100 queries/s" in shown(panel)


def test_moments_are_streamed_together_and_follow_each_other() -> None:
    plot = LoadPlot(curve=True)
    stream = LoadStream(plot, 3600)
    for second in (1, 2):
        stream(LoadPoint(second, 1.0, 2.0, 50.0, 49.0))
    [moments] = [each for each in plot.layout.select({"type": ColumnDataSource}) if "worst" in each.data]
    assert list(moments.data["seconds"]) == []
    stream(load_of(50, 1))  # the rate is done: its moments are shown
    stream(LoadPoint(1, 1.5, 3.0, 80.0, 79.0))
    stream.flush()

    assert list(moments.data["seconds"]) == [1, 2, 3]
    assert list(moments.data["rate"]) == [50, 50, 80]


def test_what_is_drawn_is_data_first() -> None:
    assert moment_data([LoadPoint(1, 2.0, 3.0, None, 40.0)]) == {"seconds": [1], "rate": [40], "p50": [2], "worst": [3]}
    assert step_data([load_of(50, 2, p99=None, worst_ms=9.0)])["tail"] == [9]
    assert step_data([load_of(50, 2, p99=None)])["label"] == ["slowest"]
    drawn = sweep_data([point_of(2, 100, 10, 90, 95), SweepPoint(4, 1, 1, "skipped", "it would not pay")])
    assert (drawn["rate"], drawn["low"], drawn["high"]) == ([92.5], [90], [100])
