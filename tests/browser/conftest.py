"""Real JupyterLab and Voila servers and a real browser, without any network."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import nbformat
import numpy as np
import onnx
import pytest
from onnx import helper
from playwright.sync_api import BrowserContext, Error, Page, expect

from tests.browser.chromium import VARIABLE, find_chromium
from tests.browser.user import SLOW

REPOSITORY = pathlib.Path(__file__).parents[2]
BASE = "/user/someone/"  # as behind JupyterHub: nothing may assume the root of the host
TOKEN = "secret"
START_SECONDS = 120

expect.set_options(timeout=SLOW)  # where no other is given: Playwright's five seconds are for a machine at rest

OpenNotebook = Callable[..., Page]


@pytest.fixture(scope="session")
def base_url() -> None:
    """Replaces a fixture of pytest-playwright whose definition pytest warns about."""


@pytest.fixture(scope="session")
def browser_type_launch_args(playwright: Any) -> dict[str, Any]:
    """Which browser pytest-playwright starts, and how."""
    flags = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update")
    chromium = find_chromium(playwright.chromium.executable_path)
    if chromium is None:
        pytest.skip(f"no Chromium found; set {VARIABLE} or run `playwright install chromium`")
    return {"executable_path": chromium, "headless": True, "args": list(flags)}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    """A window wide enough for JupyterLab's notebook and its file browser."""
    return {**browser_context_args, "viewport": {"width": 1280, "height": 900}}


@pytest.fixture(autouse=True)
def requests_elsewhere(context: BrowserContext) -> list[str]:
    """Stops every request that leaves this machine, and lists them."""
    stopped: list[str] = []

    def stop(route: Any) -> None:
        stopped.append(route.request.url)
        route.abort()

    context.set_default_timeout(SLOW)
    context.route(lambda url: url.startswith(("http", "ws")) and "//127.0.0.1:" not in url, stop)
    return stopped


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder that both servers show."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def lab(notebooks: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running JupyterLab."""
    port = _free_port()
    command = [
        *("jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *(f"--ServerApp.base_url={BASE}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={notebooks}"),
        *("--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"),
    ]
    address = f"http://127.0.0.1:{port}{BASE}"
    home = tmp_path_factory.mktemp("lab")
    settings = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with _server(command, f"{address}api", home):
        yield address


@pytest.fixture(scope="session")
def voila(notebooks: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running standalone Voila."""
    port = _free_port()
    command = [
        *("voila", str(notebooks), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"),
        *(f"--base_url={BASE}", f"--token={TOKEN}", "--template=lab", "--VoilaConfiguration.allow_theme_override=YES"),
        *("--MappingKernelManager.cull_idle_timeout=120", "--MappingKernelManager.cull_interval=30"),
    ]
    address = f"http://127.0.0.1:{port}{BASE}"
    with _server(command, address, tmp_path_factory.mktemp("voila")):
        yield address


@contextlib.contextmanager
def _server(arguments: Sequence[str], probe: str, home: pathlib.Path) -> Iterator[None]:
    """Runs a server that sees no configuration of this machine, until the block ends."""
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    lab_folders = ("JUPYTERLAB_WORKSPACES_DIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in (*folders, *lab_folders)},
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_until_it_answers(process, probe, log)
            yield
        finally:
            _stop(process)


def _wait_until_it_answers(process: subprocess.Popen[bytes], probe: str, log: pathlib.Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(probe, timeout=10):
                return
        except urllib.error.HTTPError as answer:  # forbidden without a token: it runs
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server with its kernels, which are in its process group or end with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


RUN_ALL_CELLS = """async (theme) => {
  const app = window.jupyterapp;
  await app.restored;
  await app.commands.execute('apputils:change-theme', { theme });
  const end = Date.now() + 60000;
  while (!app.shell.currentWidget?.context) {
    if (Date.now() > end) throw new Error('the notebook did not open');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { context } = app.shell.currentWidget;
  await context.ready;
  await context.sessionContext.ready;
  await context.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
}"""


@pytest.fixture(params=["lab", "voila"])
def open_notebook(request: pytest.FixtureRequest, notebooks: pathlib.Path, page: Page) -> Iterator[OpenNotebook]:
    """Opens cells as a notebook, in JupyterLab and in Voila: `open_notebook(*cells, theme="light")`."""
    server = request.param
    address = request.getfixturevalue(server)

    def show(*cells: str, theme: str = "light") -> Page:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        name = f"{request.function.__name__}-{server}-{theme}.ipynb"
        nbformat.write(notebook, notebooks / name)
        if server == "voila":
            page.goto(f"{address}voila/render/{name}?token={TOKEN}&theme={theme}", wait_until="commit")
        else:
            page.goto(f"{address}doc/tree/{name}?token={TOKEN}&reset", wait_until="commit")
            page.wait_for_function("() => window.jupyterapp", timeout=SLOW)
            page.evaluate(RUN_ALL_CELLS, f"JupyterLab {theme.title()}")
        return page

    yield show
    if server == "lab":  # its kernel would live on until the server ends
        with contextlib.suppress(Error):
            page.evaluate("() => window.jupyterapp?.shell.currentWidget?.context?.sessionContext.shutdown()")


@pytest.fixture(scope="session")
def conv_model(notebooks: pathlib.Path) -> str:
    """The name of a small convolutional ONNX model that lies beside the notebooks."""
    return _write_conv_model(notebooks / "digits.onnx").name


def _write_conv_model(path: pathlib.Path) -> pathlib.Path:
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], name="pool2"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["scores"], name="classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 10])],
        [weights("w1", 16, 1, 3, 3), weights("b1", 16), weights("w2", 32, 16, 3, 3), weights("w3", 32, 10)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
