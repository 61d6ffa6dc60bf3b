"""A process that shows the metrics of a service without being one: a test says how it behaves, by POST."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Shown:
    """Counters that rise with time, as fast as the behaviour says.

    Args:
        facts: `model`, `buckets` (s), `queue`, `inputs` ({name: (mean, deviation)}).
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self._behaviour: dict[str, float] = {"rate": 0, "failed": 0, "late": 0, "queue": 0, "shift": 0}
        self._since = time.monotonic()
        self._good = self._failed = self._late = 0.0
        self._lock = threading.Lock()

    def behave(self, values: dict[str, float]) -> None:
        """Changes the behaviour from now on."""
        with self._lock:
            self._move_on()
            self._behaviour.update(values)

    def text(self) -> str:
        """What a scrape gets."""
        with self._lock:
            self._move_on()
            return "".join(f"{line}\n" for line in self._lines())

    def _move_on(self) -> None:
        now = time.monotonic()
        requests = self._behaviour["rate"] * (now - self._since)
        self._since = now
        self._failed += requests * self._behaviour["failed"]
        self._good += requests * (1 - self._behaviour["failed"])
        self._late += requests * self._behaviour["late"]

    def _lines(self) -> list[str]:
        facts, total = self._facts, self._good + self._failed
        served = f'model="{facts["model"]}",version="1"'
        counts = {"2xx": self._good, "4xx": 0.0, "5xx": self._failed}
        lines = [
            f'workbench_requests_total{{{served},protocol="http",code="{code}"}} {count}'
            for code, count in counts.items()
        ]
        for metric in ("workbench_request_seconds", "workbench_inference_seconds"):
            lines += [f'{metric}_bucket{{{served},le="{bound}"}} {total - self._late}' for bound in facts["buckets"]]
            lines.append(f'{metric}_bucket{{{served},le="+Inf"}} {total}')
            lines += [f"{metric}_sum{{{served}}} {total * facts['buckets'][0]}", f"{metric}_count{{{served}}} {total}"]
        for bound in ("1", "2", "+Inf"):
            lines.append(f'workbench_batch_size_bucket{{{served},le="{bound}"}} {total}')
        lines += [f"workbench_batch_size_sum{{{served}}} {total}", f"workbench_batch_size_count{{{served}}} {total}"]
        for name, (mean, deviation) in facts["inputs"].items():
            labels = f'{served},input="{name}"'
            lines.append(f"workbench_input_mean{{{labels}}} {mean + self._behaviour['shift'] * deviation}")
            lines.append(f"workbench_input_reference_mean{{{labels}}} {mean}")
            lines.append(f"workbench_input_reference_deviation{{{labels}}} {deviation}")
        return [
            *lines,
            f"workbench_in_flight{{{served}}} {self._behaviour['queue'] * facts['queue']}",
            f"workbench_queue_limit{{{served}}} {facts['queue']}",
            f'workbench_model_info{{{served},backend="onnxruntime",sha256="{"0" * 64}"}} 1',
            f"process_cpu_seconds_total {time.process_time()}",
            "process_resident_memory_bytes 1e7",
        ]


def main() -> None:
    """Serves on 127.0.0.1: made_up_service.py PORT FACTS."""
    shown = Shown(json.loads(sys.argv[2]))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = shown.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            shown.behave(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
