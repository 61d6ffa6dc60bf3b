"""What the canary's tests with real proxies share: two exported services with haproxy or nginx before them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving.proxies import Callers, Service, ask, free_port, running_service
from workbench.backends import build_engine
from workbench.canary import run_proxy
from workbench.canary._proxy import Weight, open_proxy, read_package_settings
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import Package, export_package
from workbench.importers import load_model


@dataclass
class Front:
    """A running proxy before two versions."""

    package: Package
    run: Path
    listen: str
    body: bytes
    stable: Service
    canary: Service

    @property
    def path(self) -> str:
        return f"/v2/models/{self.package.name}/infer"

    def ask(self, **headers: str) -> tuple[str, str]:
        """The version that answers one request, and the cookie that came with it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, found, body = ask(self.listen, "POST", self.path, self.body, named)
        assert status == 200, body
        return json.loads(body)["model_version"], found.get("set-cookie", "").partition(";")[0]

    def callers(self, **changes: Any) -> Callers:
        return Callers(self.listen, self.path, self.body, **changes)

    def set(self, percent: float, reachable: bool = True) -> None:
        open_proxy(read_package_settings(self.package.directory), self.run).set(Weight(percent, reachable))


@contextlib.contextmanager
def standing(
    folder: Path,
    proxy: str,
    stable: Package,
    canary: Package,
    body: bytes,
    sample: Dataset,
    workers: int = 1,
    **options: Any,
) -> Iterator[Front]:
    """Two services and the proxy before them."""
    ports = [free_port() for _ in range(3)]
    addresses = dict(zip(("stable", "canary", "listen"), (f"127.0.0.1:{port}" for port in ports), strict=True))
    model = next(canary.directory.rglob("*.onnx"))
    named = folder / "model" / f"{canary.name}.onnx"
    named.parent.mkdir(parents=True)
    shutil.copy(model, named)
    package = export_package(
        Candidate("canary", build_engine(load_model(named))),
        "canary",
        {"proxy": proxy, **addresses, **options},
        sample=sample,
        directory=folder / "package",
    )
    with (
        running_service(stable, ports[0], workers) as first,
        running_service(canary, ports[1]) as second,
        run_proxy(package) as run,
    ):
        yield Front(package, run, addresses["listen"], body, first, second)
