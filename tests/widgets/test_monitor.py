"""The Monitor panel on real services: started, watched, loaded, lost and stopped, headless."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets as w
import pytest

from tests.exporters.serving import serving, tensors, with_model, write_model, write_package
from tests.loads import load_of
from widgets._plots_monitor import batch_data, bench_latency, curve_data, live_data, moment_data
from widgets.monitor import RANDOM, REQUEST, SAMPLES, Monitor
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import ExportError, ServiceError
from workbench.exporters import Package, export_package
from workbench.model import Model
from workbench.service.metrics import ServiceStats
from workbench.service.watch import Moment
from workbench.workspace import Workspace

CURVE = (load_of(200, 2), load_of(100, 1), load_of(400, 9, kept_up=False))
KEY = "a-key-that-nobody-may-see"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_package(tmp_path / "package", with_model(queue=16, request_seconds=10.0))
    write_model(made / "model.onnx")
    return made


@pytest.fixture(scope="module")
def package(digits: Model, evaluation: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Package:
    space = Workspace(tmp_path_factory.mktemp("space"))
    return export_package(Candidate("as it is", build_engine(digits)), sample=evaluation, workspace=space)


@contextmanager
def watching(**traits: Any) -> Iterator[Monitor]:
    """A panel that reads often, and is closed in the end."""
    panel = Monitor(**traits)
    panel.options.set({"every": 0.2})
    panel.load_options.set({"seconds": 0.5, "warmup_s": 0.0, "connections": 2})
    try:
        yield panel
    finally:
        panel.close()
        panel.wait(60)
        panel.sender.wait(60)
        panel.host.wait(60)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def shown(panel: Monitor) -> str:
    """Every text that the panel shows."""
    texts, boxes = [], [panel]
    while boxes:
        box = boxes.pop()
        boxes += [child for child in getattr(box, "children", ()) if child.layout.display != "none"]
        texts += [box.value] if isinstance(box, w.HTML | w.Label) else []
    return "".join(texts)


def drawn(panel: Monitor, name: str) -> list[float]:
    """What the plots over time show."""
    return list(panel.plots._moments[0].data[name])


def test_a_package_is_started_watched_loaded_and_stopped(package: Package, evaluation: Dataset) -> None:
    with watching(package=package, evaluation=evaluation, curve=CURVE) as panel:
        assert "Give the address" in shown(panel)
        panel.host.start()
        wait_for(lambda: "running at" in shown(panel))
        panel.start()
        wait_for(lambda: panel.stats is not None)
        panel.sender.start().wait(60)
        assert panel.load is not None
        assert panel.load.statuses == {200: panel.load.answered}
        wait_for(lambda: panel.stats is not None and not panel.stats.requests)
        seen = sum(moment.stats.requests for moment in panel.plots._all if moment.stats is not None)
        assert seen == panel.load.answered + panel.load.warmup
        text = shown(panel)
        assert "digits_cnn 1" in text
        assert f"{panel.load.answered:,} of {panel.load.answered:,} with 200" in text
        assert "On the bench" in text
        assert "<script" not in panel.summary()

        panel.host.stop()
        wait_for(lambda: "No answer, " in shown(panel))
        assert panel.state == "running"
        assert math.isnan(drawn(panel, "rate")[-1])  # a gap in the line
        panel.cancel()
        assert panel.wait(60).state == "cancelled"
        assert "stopped; what was seen stays" in shown(panel)
        assert panel.host.wait(60).state == "cancelled"


def test_load_goes_over_grpc_to_the_package_that_runs_here(
    digits: Model, evaluation: Dataset, workspace: Workspace
) -> None:
    pytest.importorskip("grpc")
    candidate = Candidate("as it is", build_engine(digits))
    package = export_package(candidate, options={"grpc": True}, sample=evaluation, workspace=workspace)
    with watching(package=package, evaluation=evaluation) as panel:
        panel.load_options.set({"tensors": "grpc"})
        panel.host.start()
        wait_for(lambda: "running at" in shown(panel))
        panel.sender.start().wait(60)
        assert panel.load is not None
        assert panel.load.statuses == {200: panel.load.answered}
        assert "as bytes over gRPC" in shown(panel)
        assert "'grpc_port': " in panel.code()[0]  # that of this package, which is any that was free


def test_a_closed_panel_leaves_nothing_running(package: Package) -> None:
    with watching(package=package) as panel:
        panel.host.start()
        wait_for(lambda: "running at" in shown(panel))
        panel.start()
        wait_for(lambda: panel.stats is not None)
        port = int(panel.address.value.rpartition(":")[2])
    assert (panel.state, panel.host.state) == ("cancelled", "cancelled")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_service_that_comes_back_is_watched_on(folder: Path) -> None:
    with serving(folder) as first:
        port = first.port
        with watching() as panel:
            panel.address.value = f"127.0.0.1:{port}"
            panel.start()
            wait_for(lambda: panel.stats is not None)
            first.process.kill()
            first.process.wait()
            wait_for(lambda: "No answer, " in shown(panel))
            with serving(folder, "--port", str(port)) as second:
                assert second.infer({"inputs": tensors()})[0] == 200
                wait_for(lambda: "No answer, " not in shown(panel))
                wait_for(lambda: any(rate > 0 for rate in drawn(panel, "rate")))
            assert panel.error == ""
            panel.cancel()


def test_what_is_missing_or_wrong_is_said_in_words(folder: Path) -> None:
    with watching() as panel:
        with pytest.raises(ServiceError, match="There is no address"):
            panel.start().wait()
        panel.address.value = "127.0.0.1:1"
        with pytest.raises(ServiceError, match="does not answer"):
            panel.start().wait(60)
        assert panel.state == "failed"
        assert "does not answer" in shown(panel)
        with pytest.raises(ServiceError, match="does not answer"):
            panel.sender.start().wait(60)
        assert panel.sender.state == "failed"
        assert panel.host.start_button.disabled
        with pytest.raises(ExportError, match="no package to start"):
            panel.host.start().wait()
        panel.host._failure = panel.sender._failure = panel._failure = None


def test_a_key_is_used_but_nowhere_to_be_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(folder, {**with_model(queue=16, request_seconds=10.0), "api_key": "environment"})
    with serving(folder, WORKBENCH_API_KEY=KEY) as server, watching() as panel:
        panel.address.value = f"http://127.0.0.1:{server.port}"
        with pytest.raises(ServiceError, match="401"):
            panel.sender.start().wait(60)
        panel.key.value = KEY
        assert panel.sender.start().wait(60).state == "done"
        assert panel.load is not None
        assert set(panel.load.statuses) == {200}
        python, recipe = panel.code()
        everything = f"{python}{recipe}{shown(panel)}{panel.summary()}{w.Widget.get_manager_state()}"
        assert KEY not in everything
        assert "key=os.environ['WORKBENCH_API_KEY']" in python

        panel.key_variable.value = "MY_KEY"
        assert "key=os.environ['MY_KEY']" in panel.code()[0]


def test_the_code_does_what_the_buttons_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(folder) as server, watching() as panel:
        panel.address.value = f"http://127.0.0.1:{server.port}"
        panel.options.set({"model": "looper"})
        python, recipe = panel.code()
        assert (recipe, python.count("'model': 'looper'")) == ("", 2)
        watched = python.replace("{'every': 0.2", "{'seconds': 0.7, 'every': 0.2")
        exec(watched, {})
    printed = capsys.readouterr().out
    assert "requests/s" in printed
    assert "looper 3" in printed
    assert "of 0" not in printed.partition("Answers")[2].partition("\n")[0]


def test_what_can_be_sent_is_what_there_is(package: Package, evaluation: Dataset) -> None:
    with watching() as panel:
        assert panel.source.options == (RANDOM,)
        panel.package = package
        assert (panel.source.options, panel.source.value) == ((REQUEST, RANDOM), REQUEST)
        panel.evaluation = evaluation
        assert panel.source.options == (SAMPLES, REQUEST, RANDOM)
        assert panel.source.value == REQUEST  # what was chosen stays
        assert not panel.host.start_button.disabled


def test_a_canarys_state_and_verdict_are_shown(tmp_path: Path) -> None:
    from workbench.canary._state import CanaryState, CanaryStep, write_state

    with watching() as panel:
        panel.canary_folder.value = str(tmp_path / "nothing")
        assert 'role="alert"' in shown(panel)
        step = CanaryStep(
            25.0, 30.0, stats_of(100, 2.0), stats_of(300, 1.0), "breached", "p99 is 2.0 times the other's"
        )
        write_state(tmp_path, CanaryState(0.0, "rolled_back", "The canary was too slow.", (step,)))
        panel.canary_folder.value = str(tmp_path)
        text = shown(panel)
        assert "0 % of the callers, rolled back" in text
        assert "The canary was too slow." in text
        assert "<td>25 %</td><td>30 s</td><td>100</td><td>2.0</td><td>1.0</td><td>0 %</td><td>breached</td>" in text


def stats_of(requests: float, p50: float, **changes: Any) -> ServiceStats:
    values: dict[str, Any] = {
        **{"model": "", "version": "", "seconds": 2.0, "requests": requests, "queries_per_second": requests / 2},
        **{"errors": 0.0, "refused": 0.0, "p50_ms": p50, "p99_ms": p50, "inference_p50_ms": p50, "mean_batch": 1.0},
        **{"batches": {1.0: requests, 2.0: 0.0, math.inf: 0.0}, "in_flight": 0.0, "queue_limit": 9.0},
        **{"cpu_cores": 0.5, "memory_mb": 80.0},
    }
    return ServiceStats(**{**values, **changes})


def test_the_bench_is_read_between_its_rates_and_not_beyond() -> None:
    assert curve_data(CURVE) == {"rate": [100, 200], "p50": [1, 2], "tail": [1, 2]}
    assert bench_latency(CURVE, 150) == (1.5, 1.5)
    assert all(map(math.isnan, bench_latency(CURVE, 300)))  # there it did not keep up
    assert all(map(math.isnan, bench_latency((), 150)))


def test_what_is_drawn_is_data_first() -> None:
    moments = [Moment(1, stats_of(300, 3.0, refused=4.0, errors=2.0)), Moment(2, None, trouble="gone")]
    data = moment_data(moments, CURVE)
    assert {name: values[0] for name, values in data.items()} == {
        **{"seconds": 1, "rate": 150, "refused": 2, "failed": 1, "p50": 3, "p99": 3, "bench50": 1.5, "bench99": 1.5}
    }
    assert data["seconds"][1] == 2
    assert all(math.isnan(values[1]) for name, values in data.items() if name != "seconds")
    assert live_data(moments)["rate"] == [150]
    assert live_data([Moment(n, stats_of(n, 1.0)) for n in range(100)])["rate"][-1] == 49.5
    assert live_data([Moment(0, stats_of(0, math.nan))])["rate"] == []


def test_batches_are_named_by_their_sizes() -> None:
    batches = {1.0: 30.0, 2.0: 10.0, 4.0: 0.0, 8.0: 0.0, 16.0: 0.0, math.inf: 0.0}
    small = batch_data([Moment(1, stats_of(40, 1.0, batches=batches))])
    assert small == {"samples": ["1", "2", "3–4", "5–8"], "share": [75, 25, 0, 0]}
    large = batch_data([Moment(1, stats_of(40, 1.0, batches={**batches, math.inf: 40.0}))])
    assert (large["samples"][-1], large["share"][-1]) == ("over 16", 50)
    assert batch_data([Moment(1, None)]) == {"samples": [], "share": []}
