"""Own server: a folder with the model and a small Python service that answers the Open Inference Protocol (V2)."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from workbench.backends._onnxruntime_providers import asked_settings
from workbench.backends._openvino_session import asked_settings as openvino_settings
from workbench.engine import Engine
from workbench.errors import ExportError, MissingDependencyError
from workbench.exporters import Contents
from workbench.exporters._parts import (
    BodyMegabytes,
    common_words,
    copy_model,
    datatype,
    why_no_batches,
    write_json,
    write_samples,
)
from workbench.exporters._server_parts import (
    ABOUT_GPU,
    GRPC,
    buckets_seconds,
    copy_plan,
    installed,
    limits_of,
    plan_package,
    requirements,
)
from workbench.model import TensorSpec
from workbench.options import option
from workbench.serving_measurements import Derived
from workbench.serving_plan import ServingPlan

REQUIRES = {"onnxruntime|openvino|tensorrt|tensorrt_rtx": "cpu"}
COMMAND = ("python", "serve.py")
OWN_SERVER = True

_PROTOCOL = "this server's protocol"
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Options:
    """How it is reached, and what callers may ask."""

    version: Annotated[str, option("Version that the model is served as.", example="2")] = "1"
    api_key: Annotated[
        Literal["none", "environment"],
        option(
            "environment: callers send a key, which the service reads from WORKBENCH_API_KEY when it starts. none: it "
            "has no key, and listens to other machines only if it is told so with --open."
        ),
    ] = "none"
    grpc: Annotated[bool, option("Answer gRPC too, on a port of its own.")] = False
    workers: (
        Annotated[
            int,
            option(
                "Processes that answer side by side, each with instances and threads of its own; what the measurement "
                "gives if not said.",
                minimum=1,
                maximum=256,
                example="2",
            ),
        ]
        | None
    ) = None
    allow_nan: Annotated[bool, option("Take NaN and Infinity in binary tensors.", advanced=True)] = False
    log_requests: Annotated[bool, option("Log every request, not only those that fail.", advanced=True)] = False
    body_megabytes: BodyMegabytes = None
    queue: (
        Annotated[
            int,
            option(
                "Requests in flight before it answers 503; what the measurement gives if not said.",
                minimum=1,
                maximum=100_000,
                advanced=True,
                example="64",
            ),
        ]
        | None
    ) = None
    request_seconds: (
        Annotated[
            float,
            option(
                "Longest time for one request; what the measurement gives if not said.",
                minimum=0.1,
                maximum=3600,
                unit="s",
                advanced=True,
                example="30",
            ),
        ]
        | None
    ) = None


def backends() -> tuple[str, ...]:
    """The backends whose candidates it serves."""
    return tuple(_RUNTIMES)


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        ExportError: The candidate runs on neither ONNX Runtime, OpenVINO nor TensorRT, or has tensors that the protocol
            cannot carry.
        MissingDependencyError: It is to answer gRPC, and what that takes is not installed.
    """
    engine = contents.candidate.engine
    *names, last = _RUNTIMES.values()
    if engine.backend not in _RUNTIMES:
        raise ExportError(
            f"This server runs {', '.join(names)} and {last} only; {contents.candidate.name} is built for "
            f"{engine.backend}.",
            "Choose a candidate on one of these.",
        )
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", options.version):
        raise ExportError(
            f"{options.version!r} cannot be a version.", "Use letters, digits, '.', '_' and '-' only, such as 2 or 1.4."
        )
    if options.grpc and not all(map(installed, GRPC)):
        raise MissingDependencyError(
            f"A server that answers gRPC needs {' and '.join(GRPC)}, and one of them is not installed.",
            "Install the extra grpc, or export without that option.",
        )
    here = Path(__file__).parent
    for path in here.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copyfile(path, directory / path.name)
    folder = Path("models", contents.name, options.version)
    for spec in (*engine.model.inputs, *engine.model.outputs):
        datatype(spec, _PROTOCOL)
    model = folder / ("model.plan" if engine.backend == "tensorrt" else "model.onnx")
    if engine.backend == "tensorrt":
        copy_plan(engine, directory, model)
    else:
        copy_model(engine.model, directory / folder)
    sample_bytes = write_samples(contents, options.version, directory)
    contents = replace(contents, plan=_adjusted(contents, options))
    limits = limits_of(contents, options.body_megabytes, sample_bytes)
    write_json(directory / "config.json", _config(contents, options, model, limits))
    (directory / "requirements.txt").write_text(requirements(engine, options.grpc), encoding="utf-8")
    words = _words(contents, options, limits)
    for name in ("README.md", "Dockerfile"):
        template = Template((here / name).read_text(encoding="utf-8"))
        (directory / name).write_text(template.substitute(words), encoding="utf-8")


def _adjusted(contents: Contents, options: Options) -> ServingPlan:
    """The plan with what the user asked for, and without batches where the model takes one size of them only."""
    plan, model = contents.plan, contents.candidate.engine.model
    if options.queue is not None:
        plan = replace(plan, queue=Derived(options.queue, "requests", "as asked", measured=False))
    if options.request_seconds is not None:
        plan = replace(plan, request_seconds=Derived(options.request_seconds, "s", "as asked", measured=False))
    if options.workers is not None:
        plan = replace(plan, workers=Derived(options.workers, "workers", "as asked", measured=False))
    if reason := why_no_batches(model):
        off = Derived(1, "samples", f"off: {reason}", measured=False)
        plan = replace(plan, max_batch=off, batch_wait_ms=Derived(0, "ms", "requests are not put together"))
    return plan


def _config(contents: Contents, options: Options, path: Path, limits: Mapping[str, Derived]) -> dict[str, Any]:
    """The numbers come from `contents.plan`, whose README table says what each was derived from."""
    return {
        "models": [_served(contents, options, path)],
        "limits": {name: int(limit.value) for name, limit in limits.items()},
        "api_key": options.api_key,
        "allow_nan": options.allow_nan,
        "log_requests": options.log_requests,
        "grpc": options.grpc,
        "workers": contents.plan.processes,
    }


def _served(contents: Contents, options: Options, path: Path) -> dict[str, Any]:
    engine, plan = contents.candidate.engine, contents.plan
    return {
        "name": contents.name,
        "version": options.version,
        "path": path.as_posix(),
        "sample": "sample_request.json",
        "inputs": [_declared(spec) for spec in engine.model.inputs],
        "outputs": [_declared(spec) for spec in engine.model.outputs],
        "provider": engine.device,
        **_runtime(engine, max(1, int(plan.threads.value))),
        "instances": int(plan.instances.value),
        "max_batch": int(plan.max_batch.value),
        "batch_wait_ms": plan.batch_wait_ms.value,
        "queue": int(plan.queue.value),
        "request_seconds": plan.request_seconds.value,
        "buckets_seconds": buckets_seconds(plan),
        "references": [
            {"name": known.name, "mean": known.mean, "deviation": known.sample_deviation} for known in plan.inputs
        ],
    }


def _runtime(engine: Engine, threads: int) -> dict[str, Any]:
    """What the engine was measured with, but on the threads that were best under load."""
    chosen = replace(engine, options={**engine.options, "threads": threads})
    about = {"backend": engine.backend, "threads": threads}
    if engine.backend == "openvino":
        return {**about, "provider_options": openvino_settings(chosen)}
    if engine.backend == "tensorrt":
        package = plan_package(engine)
        kept = ("gpu", "cuda_graphs", "weight_streaming", "weight_budget_mb")
        given = {name: engine.options[name] for name in kept if engine.options.get(name) is not None}
        return {**about, "provider_options": {"package": package, "version": engine.versions[package], **given}}
    return {
        **about,
        "provider_options": asked_settings(chosen),
        "arena": engine.options["arena"],
        "keep_float_layers": engine.options["float_layers"] == "keep",
        "graph_level": engine.options["graph_level"],
    }


def _declared(spec: TensorSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": datatype(spec, _PROTOCOL), "shape": shape}


def _words(contents: Contents, options: Options, limits: Mapping[str, Derived]) -> Mapping[str, str]:
    keyless = options.api_key == "none"
    common = common_words(contents)
    rows = [
        f"| {name.replace('_', ' ')} | {limit.value:,.0f} {limit.unit} | {limit.source} |"
        for name, limit in limits.items()
    ]
    return {
        **common,
        "numbers": "\n".join([common["numbers"], *rows]),
        "hardware": ABOUT_GPU.format(device=contents.candidate.engine.device)
        if contents.candidate.engine.backend == "tensorrt"
        else "",
        "workers": contents.plan.numbers["workers"].counted,
        "version": options.version,
        "key": "no key: it takes requests from everyone who reaches it" if keyless else "a key",
        "start": "python serve.py" if keyless else "WORKBENCH_API_KEY=… python serve.py",
        "header": "" if keyless else " -H 'Authorization: Bearer …'",
        "open": '"--host", "0.0.0.0", "--open"' if keyless else '"--host", "0.0.0.0"',
        "grpc": "gRPC has the port after it, or `--grpc-port`." if options.grpc else "It answers no gRPC.",
        "publish": " -p 127.0.0.1:8001:8001" if options.grpc else "",
        "ports": "8000 8001" if options.grpc else "8000",
        "environment": "" if keyless else " -e WORKBENCH_API_KEY",
        "python": platform.python_version(),
    }
