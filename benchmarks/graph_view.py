"""Graphs of 1,000 to 10,000 nodes in a browser: the Graph panel in Voila, from loading the model to the drawn graph.

Beside it Netron's own page, on the same file, from asking for the page to the drawn graph. The panel also sums up the
graph and fills its table in that time, while its kernel and page are up; Netron's page starts from nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import inspect_graphs
from tests.browser.chromium import find_chromium

SIZES = (1_000, 3_000, 10_000)
ROUNDS = 3
TARGET = 10.0  # seconds, at the largest size
PATIENCE = 120_000  # ms
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")

CELL = """
import time
import ipywidgets as w
import workbench as wb
from widgets import Graph

graph, answer, button = Graph(), w.Label("ready"), w.Button(description="Begin")

def opened(change):
    if change["new"] == "opened":
        answer.value = f"visible after {{time.perf_counter() - begun:.3f}} s"

def begin(_):
    global begun
    begun = time.perf_counter()
    graph.model = wb.load_model({path!r})

graph.view.observe(opened, "status")
button.on_click(begin)
display(button, answer, graph)
"""


def main() -> None:
    """Prints a line per size: seconds of ours and of Netron's page, medians of interleaved rounds."""
    print(f"{'nodes':>8}{'panel in Voila':>18}{'Netron page':>16}{'ratio':>8}{'target':>10}")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        chromium = find_chromium(playwright.chromium.executable_path)
        with playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser, voila(folder) as address:
            for size in SIZES:
                path = folder / f"deep{size}.onnx"
                inspect_graphs.write_deep(path, size)
                cell = nbformat.v4.new_code_cell(CELL.format(path=str(path)))
                nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"deep{size}.ipynb")
                times = [
                    (panel(browser, f"{address}/voila/render/deep{size}.ipynb"), netrons_page(browser, path))
                    for _ in range(ROUNDS)
                ]
                ours, theirs = np.median(times, axis=0)
                target = f"{TARGET:.0f} s" if size == SIZES[-1] else ""
                print(f"{size:>8,}{ours:>16.1f} s{theirs:>14.1f} s{ours / theirs:>8.2f}{target:>10}", flush=True)


def panel(browser: Browser, address: str) -> float:
    """Seconds from the kernel's `load_model` to the graph on the page, as the page reports it."""
    with closing(browser) as page:
        page.goto(address)
        page.get_by_role("button", name="Begin").click(timeout=PATIENCE)
        label = page.get_by_text("visible after")
        label.wait_for(timeout=PATIENCE)
        return float(label.inner_text().split()[2])


def netrons_page(browser: Browser, path: Path) -> float:
    """Seconds from asking Netron's server for its page to the first node; infinite if it does not come."""
    port = free_port()
    program = f"import netron, time; netron.start({str(path)!r}, {port}, browse=False); time.sleep(1000)"
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        with closing(browser) as page:
            begun = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
            with contextlib.suppress(TimeoutError):  # it asks for cookies first where it thinks that it must
                page.get_by_role("button", name="Accept").click(timeout=2_000)
            page.locator(".graph-node").first.wait_for(timeout=PATIENCE)
            return time.perf_counter() - begun
    except TimeoutError:
        return float("inf")
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def closing(browser: Browser) -> Iterator[Page]:
    """A page that asks nobody but this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.route(lambda url: "//127.0.0.1" not in url and url.startswith("http"), lambda route: route.abort())
    try:
        yield context.new_page()
    finally:
        context.close()


@contextlib.contextmanager
def voila(folder: Path) -> Iterator[str]:
    """Voila on a folder, until the block ends."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "voila", str(folder), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"),
        *("--template=lab", "--show_tracebacks=True"),
    ]
    paths = os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    server = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(address: str) -> None:
    """Waits until a server answers at all."""
    for _ in range(600):
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"Nothing answers at {address}.")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
