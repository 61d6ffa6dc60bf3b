"""TensorFlow Serving: a SavedModel in its versioned layout, its configuration, and clients that check it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

from workbench.exporters import Contents
from workbench.exporters._parts import common_words, datatype, write_json
from workbench.exporters.tf_serving._configs import (
    BATCHING,
    METRICS,
    MODELS,
    MONITORING,
    Batching,
    batching_config,
    find_batching,
    flags,
    models_config,
    monitoring_config,
)
from workbench.exporters.tf_serving._run_saved_model import SIGNATURE
from workbench.exporters.tf_serving._saved_model import TINY, Saved, declared_shape, write_saved_model
from workbench.model import TensorSpec
from workbench.options import option

REQUIRES = {"onnx2tf": "litert", "tensorflow": "tensorflow", "tensorflow_serving": "tf_serving"}
COMMAND: tuple[str, ...] = ()  # TensorFlow Serving is no program of this package's: its README says how it is started

_FOLDER = "models"
_NOT_IN_JSON = ("float16", "uint16")  # element types that its REST does not read
_CLIENTS = {"client_rest.py": "numpy", "client_grpc.py": "grpcio\ntensorflow-serving-api"}


@dataclass(frozen=True)
class Options:
    """The SavedModel; its batches, threads and limits come from what was measured."""

    version: Annotated[int, option("Version of the model: the name of its folder.", minimum=1)] = 1
    served_versions: Annotated[
        int, option("Newest versions in the folder that are served side by side.", minimum=1, advanced=True)
    ] = 1
    tolerance: Annotated[
        float,
        option(
            "Largest difference of the SavedModel's answer from the candidate's, as a share of an output's largest "
            "value; more is refused.",
            minimum=0.0,
            maximum=1.0,
            advanced=True,
        ),
    ] = 1e-3
    image: Annotated[
        str, option("Container image with TensorFlow Serving that the README names.", example="tensorflow/serving")
    ] = "tensorflow/serving:2.21.0"


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory`.

    Raises:
        ExportError: onnx2tf cannot convert the model, the SavedModel answers otherwise than the candidate, or a tensor
            is of a type that requests do not carry.
        MissingDependencyError: Something that onnx2tf needs is not installed.
    """
    model, batching = contents.candidate.engine.model, find_batching(contents)
    for spec in (*model.inputs, *model.outputs):
        datatype(spec, "a request")
    models = directory / _FOLDER
    texts = {MODELS: models_config(contents.name, options.served_versions), MONITORING: monitoring_config()}
    if batching.size > 1:
        texts[BATCHING] = batching_config(contents, batching)
    version = models / contents.name / str(options.version)
    version.parent.mkdir(parents=True)
    warm_up = [1, batching.size] if batching.size > 1 else [1]
    saved = write_saved_model(contents, version, warm_up, options.tolerance)
    for name, text in texts.items():
        (models / name).write_text(text, encoding="utf-8")
    write_json(directory / "signature.json", _signature(contents, options))
    write_json(directory / "parity.json", _parity(contents, options, saved))
    request = {spec.name: contents.sample[spec.name].tolist() for spec in model.inputs}
    write_json(directory / "sample_request.json", {"signature_name": SIGNATURE, "inputs": request})
    answers = [contents.answer[spec.name].tolist() for spec in model.outputs]
    named = dict(zip((spec.name for spec in model.outputs), answers, strict=True))
    # TensorFlow Serving leaves out the name where there is one output only.
    write_json(directory / "sample_response.json", {"outputs": named if len(answers) > 1 else answers[0]})
    templates = Path(__file__).parent / "templates"
    for name in ("sample.py", *_clients(contents)):
        shutil.copyfile(templates / name, directory / name)
    needed = "\n".join(_CLIENTS[name] for name in _clients(contents))
    (directory / "requirements.txt").write_text(f"{needed}\n", encoding="utf-8")
    readme = Template((templates / "README.md").read_text(encoding="utf-8"))
    words = _words(contents, batching, saved, options)
    (directory / "README.md").write_text(readme.substitute(words), encoding="utf-8")


def _clients(contents: Contents) -> Sequence[str]:
    return [name for name in _CLIENTS if name != "client_rest.py" or not _unread(contents)]


def _unread(contents: Contents) -> list[TensorSpec]:
    """Tensors that JSON requests cannot hold."""
    model = contents.candidate.engine.model
    return [spec for spec in (*model.inputs, *model.outputs) if spec.dtype in _NOT_IN_JSON]


def _signature(contents: Contents, options: Options) -> dict[str, Any]:
    """What clients go by."""
    model = contents.candidate.engine.model

    def described(spec: TensorSpec, arrays: Mapping[str, Any]) -> dict[str, Any]:
        shape, sample = declared_shape(spec), list(arrays[spec.name].shape)
        return {"name": spec.name, "dtype": spec.dtype, "shape": shape, "sample_shape": sample}

    return {
        "model_name": contents.name,
        "version": options.version,
        "signature_name": SIGNATURE,
        "inputs": [described(spec, contents.sample) for spec in model.inputs],
        "outputs": [described(spec, contents.answer) for spec in model.outputs],
        "tolerance": {"of_largest_value": options.tolerance, "always": TINY},
    }


def _parity(contents: Contents, options: Options, saved: Saved) -> dict[str, Any]:
    """How near the SavedModel is to the candidate."""
    return {
        "onnx_sha256": contents.candidate.engine.model.sha256,
        "versions": dict(saved.versions),
        "sample": [
            {"output": entry.name, "max_abs_error": entry.max_abs_error, "largest_value": entry.largest}
            for entry in saved.differences
        ],
        "tolerance": options.tolerance,
        "random_inputs": saved.random,
    }


def _words(contents: Contents, batching: Batching, saved: Saved, options: Options) -> dict[str, str]:
    given, common = flags(contents, batching), common_words(contents)
    rows = [f"| `{flag}` | {source} |" for flag, source in given.items() if source]
    return {
        **common,
        "image": options.image,
        "version": str(options.version),
        "tensorflow": saved.versions["tensorflow"],
        "converter": ", ".join(f"{name} {number}" for name, number in saved.versions.items()),
        "parity": f"{saved.worst.max_abs_error:.2g} of {saved.worst.largest:.3g} ('{saved.worst.name}')",
        "tolerance": f"{100 * options.tolerance:g} %",
        "random": saved.random,
        "flags": " \\\n        ".join(given),
        "local_flags": " \\\n        ".join(
            flag.replace("=models/", '="$PWD/models/') + '"' if "=models/" in flag else flag
            for flag in flags(contents, batching, _FOLDER)
        ),
        "metrics": METRICS,
        "rest": _ask(contents),
        "flag_rows": "\n".join(rows),
        "differences": "\n".join(f"- {line}" for line in _differences(contents, batching)),
    }


def _ask(contents: Contents) -> str:
    """How the sample is sent over REST."""
    if unread := _unread(contents):
        return f"    # not by REST: '{unread[0].name}' is {unread[0].dtype}, which JSON requests do not carry"
    return (
        "    python client_rest.py              # REST\n"
        f"    curl -s -d @sample_request.json http://127.0.0.1:8501/v1/models/{contents.name}:predict"
    )


def _differences(contents: Contents, batching: Batching) -> Iterator[str]:
    """What will be otherwise than it was measured."""
    engine, plan = contents.candidate.engine, contents.plan
    versions = ", ".join(f"{name} {number}" for name, number in engine.versions.items())
    yield (
        f"The candidate was built for {engine.backend} ({versions}), which also answered the sample; here TensorFlow "
        "computes it, with kernels of its own. Latency, rate and the batch that is best may be others: measure the "
        "running server."
    )
    yield (
        "All requests share TensorFlow's threads: there are no instances with threads of their own, and one request "
        "may take them all."
    )
    if batching.size > 1:
        yield (
            f"A request with more than {batching.size} samples is refused: batching takes none that is larger than a "
            "batch."
        )
    else:
        yield (
            f"Requests are not put together ({batching.source}), and nothing limits how many are under way: the plan "
            f"would turn them away beyond {plan.queue.value:g}. Put a proxy with a limit before it."
        )
    if batching.size < plan.max_batch.value:
        yield f"Batches of {plan.max_batch.value:g} were the best when measured, but {batching.source}."
    yield (
        f"gRPC has no time limit but the caller's: give each call one, such as the {plan.request_seconds.value:g} s of "
        "REST."
    )
