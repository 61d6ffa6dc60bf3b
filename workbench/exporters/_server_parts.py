"""What a server's package holds beside the server: its limits, pins, and the code that runs plans."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workbench.engine import Engine
from workbench.exporters import Contents
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

GRPC = ("h2", "protobuf")
ABOUT_GPU = (
    "\n\n**It takes an NVIDIA GPU** of the kind that the plan was built for ({device}), and its driver; in a "
    "container, say `--gpus all` too. This way of serving was **not run on a GPU** before it was shipped: try the "
    "sample first."
)
_NEEDED = ("numpy", "uvicorn", "uvloop", "httptools", "msgspec")
# The code that runs plans, as the workbench has it; its files need each other only, and lie side by side in a package.
_PLAN_CODE = (
    "errors", *(f"backends/_cuda{part}" for part in ("", "_api", "_python", "_pycuda", "_words")),
    *(f"backends/_tensorrt_{part}" for part in ("package", "words", "loaded", "lane")),
)  # fmt: skip


def limits_of(contents: Contents, body_megabytes: float | None, sample_bytes: int) -> dict[str, Derived]:
    """What callers may cost each worker, by the keys of config.json: not measured, but derived from what is."""
    queue = int(contents.plan.queue.value)
    usual = max(16e6, 8 * sample_bytes)
    body = int(body_megabytes * 1e6) if body_megabytes else int(usual)
    asked = body_megabytes is not None
    return {
        "body_bytes": Derived(body, "bytes", "as asked" if asked else "8 × the sample request, at least 16 MB", False),
        "total_body_bytes": Derived(
            max(4 * body, queue * sample_bytes),
            "bytes",
            f"{queue} sample requests, as many as the queue holds, and at least 4 of the largest",
            measured=False,
        ),
        "connections": Derived(
            max(256, 4 * queue), "connections", "4 for each request of the queue, at least 256", measured=False
        ),
        "header_seconds": Derived(10, "s", "a usual value", measured=False),
        "body_seconds": Derived(10, "s", "a usual value", measured=False),
    }


def buckets_seconds(plan: ServingPlan) -> list[float]:
    """Bounds of the latency histogram as they are published: 0.471 ms is 0.000471 s, and no 0.00047099999999999996."""
    return [float(f"{bound / 1000:.6g}") for bound in plan.buckets_ms]


def copy_plan(engine: Engine, directory: Path, target: Path) -> None:
    """Copies a plan, and the workbench's own code that runs it: the same but for where its files find each other."""
    (directory / target).parent.mkdir(parents=True)
    shutil.copyfile(engine.path, directory / target)
    for name in _PLAN_CODE:
        code = Path(__file__).parents[1].joinpath(f"{name}.py").read_text(encoding="utf-8")
        flat = re.sub(
            r"^from workbench\.(backends\.(?=_(?:cuda|tensorrt))|(?=errors))", "from ", code, flags=re.MULTILINE
        )
        (directory / f"{Path(name).name}.py").write_text(flat, encoding="utf-8")


def requirements(engine: Engine, grpc: bool) -> str:
    """The versions that were measured, so that the service runs what was measured."""
    wheels = ("onnxruntime-gpu", "onnxruntime-openvino") if engine.backend == "onnxruntime" else ()
    runtime = next((name for name in wheels if installed(name)), engine.backend)
    if engine.backend == "tensorrt":
        cuda = next((name for name in ("cuda-python", "pycuda") if installed(name)), "")
        pins = {plan_package(engine): engine.versions[plan_package(engine)], **({cuda: version(cuda)} if cuda else {})}
    else:
        pins = {runtime: engine.versions[engine.backend]}
    pins = {
        **pins,
        **{name: version(name) for name in (*_NEEDED, *(GRPC if grpc else ()))},
    }
    return "".join(f"{name}=={pin}\n" for name, pin in pins.items())


def plan_package(engine: Engine) -> str:
    """Which of NVIDIA's two packages built a plan."""
    return "tensorrt_rtx" if "tensorrt_rtx" in engine.versions else "tensorrt"


def installed(name: str) -> bool:
    """Whether a distribution is here."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
