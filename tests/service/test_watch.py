"""A service is watched while it is loaded, goes away and comes back; what is seen is what was sent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.exporters.serving import Server, binary_inputs, serving, tensors, with_model, write_model, write_package
from tests.service.test_load import request_of
from tests.serving.prometheus import free_address
from workbench.errors import Cancelled, OptionsError, ServiceError
from workbench.service.load import load_service
from workbench.service.report import SERVICE_HEADINGS, drift_words, service_facts, service_row, service_text
from workbench.service.watch import Moment, WatchOptions, read_key, watch_service

EVERY = 0.25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_package(tmp_path / "package", with_model(queue=16, request_seconds=10.0))
    write_model(made / "model.onnx")
    return made


def totals(moments: tuple[Moment, ...] | list[Moment]) -> tuple[float, float, float]:
    """Requests, refused ones and failed ones of all moments together."""
    seen = [moment.stats for moment in moments if moment.stats is not None]
    return sum(one.requests for one in seen), sum(one.refused for one in seen), sum(one.errors for one in seen)


def test_every_request_is_seen_once(folder: Path) -> None:
    with serving(folder) as server:
        url, sent, moments = f"http://127.0.0.1:{server.port}", [0, 0], list[Moment]()

        def ask(moment: Moment) -> None:
            moments.append(moment)
            if len(moments) > 5:
                raise Cancelled
            if len(moments) < 4:
                assert server.infer({"inputs": tensors()})[0] == 200
                assert server.infer({"inputs": binary_inputs()})[0] == 400
                sent[0] += 2
                sent[1] += 1

        begun = time.monotonic()
        with pytest.raises(Cancelled):
            watch_service(url, {"seconds": 0, "every": EVERY, "model": "looper", "version": "3"}, watch=ask)
        took = time.monotonic() - begun
    assert totals(moments) == (*sent, 0) == (6, 3, 0)
    last = moments[-1].stats
    assert last is not None
    assert (moments[-1].served, last.queue_limit, last.in_flight) == ((("looper", "3"),), 16, 0)
    assert last.memory_mb > 10
    assert [moment.seconds for moment in moments] == sorted(moment.seconds for moment in moments)
    assert moments[-1].seconds > 5 * EVERY
    assert 5 * EVERY < sum(moment.stats.seconds for moment in moments if moment.stats) < took


def test_load_is_seen_with_its_rate_latency_and_batches(folder: Path) -> None:
    moments: list[Moment] = []
    options = {"seconds": 1.0, "warmup_s": 0.0, "connections": 2, "pattern": "constant", "rate": 80.0}
    with serving(folder) as server:
        url = f"http://127.0.0.1:{server.port}"

        def load(moment: Moment) -> None:
            moments.append(moment)
            if len(moments) > 1:
                raise Cancelled
            load_service(url, options, request=request_of(rows=3))

        with pytest.raises(Cancelled):
            watch_service(url, {"seconds": 0, "every": EVERY}, watch=load)
    busy = moments[-1].stats
    assert busy is not None
    assert busy.requests == 81  # one is tried before
    assert busy.queries_per_second == pytest.approx(81 / busy.seconds)
    assert (busy.mean_batch, busy.batches[4.0], sum(busy.batches.values())) == (3, 81, 81)
    assert 0 < busy.inference_p50_ms <= busy.p50_ms <= busy.p99_ms
    assert busy.cpu_cores > 0


def test_a_service_that_goes_away_is_waited_for(folder: Path) -> None:
    moments: list[Moment] = []
    port = int(free_address().rpartition(":")[2])
    url = f"http://127.0.0.1:{port}"
    with serving(folder, "--port", str(port)) as first:
        assert first.infer({"inputs": tensors()})[0] == 200
        again: list[Server] = []

        def follow(moment: Moment) -> None:
            moments.append(moment)
            if len(moments) == 1:
                os.kill(first.process.pid, signal.SIGKILL)
                first.process.wait()
            elif moment.stats is None and len(again) == 0 and len(moments) > 8:
                again.append(stack.__enter__())
                assert again[0].infer({"inputs": tensors()})[0] == 200
            elif again and moment.stats is not None:
                raise Cancelled

        stack = serving(folder, "--port", str(port))
        try:
            with pytest.raises(Cancelled):
                watch_service(url, {"seconds": 0, "every": EVERY}, watch=follow)
        finally:
            if again:
                stack.__exit__(None, None, None)
    lost = [moment for moment in moments if moment.stats is None]
    assert len(lost) >= 2
    assert f"{url}/metrics does not answer" in lost[-1].trouble
    assert moments[-1].stats is not None
    assert moments[-1].stats.requests == 1  # of the new process alone
    assert moments[-1].stats.seconds > EVERY  # all of the time since it was last seen
    assert "no answer" in service_text(moments)


def test_a_stop_does_not_wait_for_a_service_that_hangs(folder: Path) -> None:
    with serving(folder) as server:
        url, stopped = f"http://127.0.0.1:{server.port}", list[float]()

        def cancel(fraction: float, text: str) -> None:
            if stopped and time.monotonic() - stopped[0] > 0.5:
                raise Cancelled

        def stop(moment: Moment) -> None:
            os.kill(server.process.pid, signal.SIGSTOP)
            stopped.append(time.monotonic())

        with pytest.raises(Cancelled):
            watch_service(url, {"seconds": 0, "every": 0.2, "timeout_s": 30}, watch=stop, progress=cancel)
        assert time.monotonic() - stopped[0] < 25  # less than the service has for its answer
        os.kill(server.process.pid, signal.SIGCONT)


def test_what_cannot_be_watched_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="does not answer"):
        watch_service(free_address())
    with serving(folder) as server, pytest.raises(ServiceError, match=r"does not serve other.*; it serves looper 3\."):
        watch_service(f"127.0.0.1:{server.port}", {"model": "other"})
    with serving(folder) as server:
        for wanted, words in (
            ({"version": "9"}, r"does not serve version 9 of any model; it serves looper 3\."),
            ({"model": "looper", "version": "9"}, r"does not serve version 9 of looper; "),
        ):
            with pytest.raises(ServiceError, match=words):
                watch_service(f"127.0.0.1:{server.port}", wanted)
    with pytest.raises(OptionsError, match="every"):
        watch_service("127.0.0.1", {"every": 0.01})
    monkeypatch.setenv("SOME_KEY", "abc")
    assert (read_key("SOME_KEY"), read_key("")) == ("abc", "")
    with pytest.raises(OptionsError, match="OTHER_KEY is not set"):
        read_key("OTHER_KEY")


def test_moments_are_told_in_columns_and_words(folder: Path) -> None:
    with serving(folder) as server:
        moments = watch_service(f"127.0.0.1:{server.port}", {"seconds": 0.5, "every": EVERY})
    for moment in (*moments, Moment(3.0, None, trouble="It is gone.")):
        assert len(service_row(moment)) == len(SERVICE_HEADINGS)
    facts = service_facts(moments[-1])
    assert (facts["Service"], facts["In flight"]) == ("looper 3", "0 of 16 at most")
    assert facts["Input x"] == "no request yet, or nothing to compare with"
    assert service_facts(Moment(3.0, None, trouble="It does not answer.")) == {"Service": "It does not answer."}
    assert drift_words(0.42) == "like the known samples (mean 0.4 σ off)"
    assert drift_words(1.5) == "somewhat unlike the known samples (mean 1.5 σ off)"
    assert drift_words(7.0).startswith("unlike")
    assert service_text(()).startswith("Nothing was seen")
    assert WatchOptions().seconds > 0  # a script ends by itself


def test_the_command_watches(folder: Path, command_line: CommandLine) -> None:
    with serving(folder) as server:
        done = command_line("watch", f"127.0.0.1:{server.port}", "--seconds", "0.9", "--every", "0.3")
        missing = command_line("watch", f"127.0.0.1:{server.port}", "--key-variable", "NOT_SET")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["time", "s"]
    assert len([line for line in lines[1:] if line.strip().endswith("0.00")]) >= 1
    assert "looper 3" in done.stdout
    assert missing.returncode == 2
    assert "NOT_SET is not set" in missing.stderr
