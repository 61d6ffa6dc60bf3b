"""A service watched through a real Prometheus: what is seen is what was sent, whenever it scrapes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tests.exporters.serving import serving, with_model, write_model, write_package
from tests.service.test_load import request_of
from tests.serving.prometheus import find_program, free_address, get_programs, running
from workbench.errors import ServiceError
from workbench.service.load import load_service
from workbench.service.watch import watch_service


@pytest.mark.serving
def test_what_was_sent_is_seen(tmp_path: Path) -> None:
    """It scrapes once a second; watched four times a second, no moment shows a rate that nobody sent."""
    get_programs()
    folder = write_package(tmp_path / "package", with_model(queue=16, request_seconds=10.0))
    write_model(folder / "model.onnx")
    address, data = free_address(), tmp_path / "data"
    data.mkdir()
    with serving(folder) as server:
        target = f"127.0.0.1:{server.port}"
        config = tmp_path / "prometheus.yml"
        job = {"job_name": "looper", "static_configs": [{"targets": [target]}]}
        # JSON is YAML too.
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        command = [
            find_program("prometheus") or "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={address}",
        ]
        with running(command, f"http://{address}/-/ready", tmp_path / "log"):
            _wait_for_a_scrape(address)
            options = {"seconds": 4.0, "warmup_s": 0.0, "connections": 2, "pattern": "constant", "rate": 50.0}
            load = threading.Thread(target=load_service, args=(target, options), kwargs={"request": request_of()})
            load.start()
            moments = watch_service(address, {"seconds": 9, "every": 0.25, "selector": 'job="looper"'})
            load.join()
            seen = [moment.stats for moment in moments if moment.stats is not None]
            assert sum(stats.requests for stats in seen) == 201  # one is tried before
            assert len(moments) <= 10  # one for each scrape, not for each question
            assert max(stats.queries_per_second for stats in seen) < 75
            with pytest.raises(ServiceError, match='knows no exported server that runs, with job="other"'):
                watch_service(address, {"selector": 'job="other"'})


def _wait_for_a_scrape(address: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            watch_service(address, {"seconds": 0.2, "every": 0.2})
            return
        except ServiceError:
            assert time.monotonic() < end
            time.sleep(0.2)
