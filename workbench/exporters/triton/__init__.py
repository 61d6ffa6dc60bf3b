"""Triton: a model repository for NVIDIA's Triton Inference Server, a client that checks it, and how to start it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

import numpy as np

from workbench.exporters import Contents
from workbench.exporters._parts import common_words, write_samples
from workbench.exporters.triton._backends import TAKEN, Target, find_target
from workbench.exporters.triton._config import (
    Batching,
    find_batching,
    make_config,
    sent_shape,
    warm_up_files,
)
from workbench.exporters.triton._pbtxt import check_config, write_pbtxt
from workbench.options import option

REQUIRES: dict[str, str] = {}
COMMAND: tuple[str, ...] = ()  # Triton is no program of this package's: its README says how it is started

_REPOSITORY = "model_repository"


@dataclass(frozen=True)
class Options:
    """The model repository; its batches, instances, threads and limits come from what was measured."""

    version: Annotated[int, option("Version of the model: the name of its folder.", minimum=1)] = 1
    served_versions: Annotated[
        int, option("Newest versions in the repository that are served side by side.", minimum=1, advanced=True)
    ] = 1
    request_batch: Annotated[
        int,
        option(
            "Largest batch that one request may bring, where that is more than Triton puts together; 0 for no more.",
            minimum=0,
            maximum=65536,
            unit="samples",
            advanced=True,
        ),
    ] = 0
    queue_limits: Annotated[
        bool,
        option(
            "Turn requests away that are more than the plan's queue, or wait longer than its patience. Triton 2.51 "
            "then paused for half a second now and again where that was tried: measure before.",
            advanced=True,
        ),
    ] = False
    image: Annotated[
        str, option("Container image with Triton that the README names.", example="tritonserver:24.10-py3")
    ] = "tritonserver:24.10-py3"


def backends() -> tuple[str, ...]:
    """The backends whose candidates Triton runs as they were measured."""
    return TAKEN


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        ExportError: Triton cannot run the candidate as it was measured, or does not carry one of its tensors.
    """
    model = contents.candidate.engine.model
    target = find_target(contents.candidate, contents.plan)
    batching = find_batching(contents, target, options.request_batch)
    title = f"{contents.name} for Triton's {target.backend} backend. Behind a number: what it was derived from."
    config = write_pbtxt(make_config(contents, target, batching, options.served_versions, options.queue_limits), title)
    check_config(config)
    folder = directory / _REPOSITORY / contents.name
    version = folder / str(options.version)
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copyfile(target.source, version / target.file)
    for name in model.external_files if target.source == model.path else ():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path.parent / name, version / name)
    (folder / "warmup").mkdir()
    for name, file in warm_up_files(contents).items():
        (folder / "warmup" / file).write_bytes(np.ascontiguousarray(contents.sample[name]).tobytes())
    write_samples(contents, str(options.version), directory, lambda array, spec: sent_shape(array, spec, batching))
    here = Path(__file__).parent
    shutil.copyfile(here / "client.py", directory / "client.py")
    (directory / "requirements.txt").write_text("numpy\ntritonclient[grpc,http]\n", encoding="utf-8")
    readme = Template((here / "README.md").read_text(encoding="utf-8"))
    words = _words(contents, target, batching, options)
    (directory / "README.md").write_text(readme.substitute(words), encoding="utf-8")


def _words(contents: Contents, target: Target, batching: Batching, options: Options) -> dict[str, str]:
    candidate, plan = contents.candidate, contents.plan
    differences = list(target.differences)
    if plan.max_batch.value > max(1, batching.preferred):
        differences.append(
            f"Batches of {plan.max_batch.value:g} were the best when measured. They are not put together: "
            f"{batching.source}."
        )
    if not options.queue_limits:
        differences.append(
            "Any number of requests may wait, for any time; the plan would turn them away beyond "
            f"{plan.queue.value:g} and after {plan.request_seconds.value:g} s. With these limits Triton 2.51 paused "
            "for half a second now and again when that was tried (with a backend in Python), so "
            "that they are left out: give each call a timeout, or export with queue_limits and measure."
        )
    versions = ", ".join(f"{name} {number}" for name, number in candidate.engine.versions.items())
    differences.append(f"It was measured with {versions}; Triton's image has versions of its own.")
    common = common_words(contents)
    return {
        **common,
        "backend": target.backend,
        "image": options.image,
        "gpus": " --gpus=all" if target.kind == "KIND_GPU" else "",
        "ask": _ask(contents),
        "data": _perf_data(contents, batching),
        "concurrency": str(max(1, int(plan.instances.value) * max(1, batching.preferred))),
        "rate": f"{plan.rate_per_replica.value:g}",
        "rate_source": plan.rate_per_replica.source,
        "p99": f"{plan.p99_ms.value:g} ms ({plan.p99_ms.source})",
        "differences": "\n".join(f"- {line}" for line in differences),
    }


def _ask(contents: Contents) -> str:
    """How the sample is sent by hand."""
    model = contents.candidate.engine.model
    if half := [spec.name for spec in (*model.inputs, *model.outputs) if spec.dtype == "float16"]:
        return f"    # not by curl: '{half[0]}' is float16, which Triton takes and gives in binary only"
    return (
        f"    curl -s http://127.0.0.1:8000/v2/models/{contents.name}/infer -H 'Content-Type: application/json' "
        "-d @sample_request.json"
    )


def _perf_data(contents: Contents, batching: Batching) -> str:
    """perf_analyzer's words for the sample: its files, where they are named after the inputs, and its open axes."""
    files = warm_up_files(contents)
    named = all(name == file for name, file in files.items())
    words = [f"--input-data={_REPOSITORY}/{contents.name}/warmup" if named else "--input-data=zero"]
    for spec in contents.candidate.engine.model.inputs:
        shape = sent_shape(contents.sample[spec.name], spec, batching)[1 if batching.limit else 0 :]
        if any(isinstance(size, str) for size in spec.shape[1 if batching.limit else 0 :]):
            words.append(f"--shape={spec.name}:{','.join(map(str, shape))}")
    return " ".join(words)
