"""What the canary's tests with real proxies share: two exported services with haproxy or nginx before them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving.proxies import Callers, Service, ask, free_ports, running_service
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
    listen_grpc: str = ""

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
    *,
    grpc: bool = False,
    **options: Any,
) -> Iterator[Front]:
    """Two services and the proxy before them, for gRPC too if they answer it."""
    names = ("stable", "canary", "listen", *(("stable_grpc", "canary_grpc", "listen_grpc") if grpc else ()))
    ports = free_ports(len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    first_grpc, second_grpc = ports[3:5] if grpc else (None, None)
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
        running_service(stable, ports[0], workers, grpc=first_grpc) as first,
        running_service(canary, ports[1], grpc=second_grpc) as second,
        run_proxy(package) as run,
    ):
        yield Front(package, run, addresses["listen"], body, first, second, addresses.get("listen_grpc", ""))


def readme_commands(package: Path) -> tuple[str, str]:
    """The README's commands that start the proxy and that take the callers from the canary."""
    sections = re.findall(r"^((?: {4}\S.*\n)+)", (package / "README.md").read_text(), re.M)
    start = next(section for section in sections if section.lstrip().startswith("run="))
    return start, next(section for section in sections if "PWD-run" in section and section is not start)
