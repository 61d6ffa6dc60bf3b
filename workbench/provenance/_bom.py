"""The bill of materials in CycloneDX JSON 1.6: the libraries that a package pins, with licences, and its model.

Written here rather than by CycloneDX's library, so that every package has one and nothing more is to be installed for
it: the document is plain JSON. A test checks it against that library's strict schema.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.comparison import Row
from workbench.options import to_builtins
from workbench.provenance._checksums import hash_stream, open_regular
from workbench.provenance._record import WORKBENCH, Origin, installed_version, portable

_PIN = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;#*]+)")
_MODEL_SUFFIXES = {".onnx", ".plan", ".engine", ".tflite", ".pb", ".mnn", ".keras", ".h5"}
_LONGEST_LICENCE = 100  # letters; longer ones are the whole text


def bill_of_materials(folder: Path, origin: Origin, created: str) -> dict[str, Any]:
    """The document for a package that is otherwise whole.

    Args:
        folder: The package.
        origin: What it was made of.
        created: When, as ISO 8601 has it.
    """
    libraries = list(_libraries(folder))
    model = _model(folder, origin)
    references = [part["bom-ref"] for part in (model, *libraries)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [{"type": "application", "name": WORKBENCH, "version": installed_version(WORKBENCH)}]
            },
            "component": {
                "type": "application",
                "bom-ref": "package",
                "name": origin.name,
                "description": f"{origin.candidate.name}, written by the exporter {origin.exporter}",
            },
        },
        "components": [model, *libraries],
        "dependencies": [{"ref": "package", "dependsOn": references}],
        # What the pinned libraries need themselves is not pinned, hence not known here.
        "compositions": [{"aggregate": "incomplete", "dependencies": ["package"]}],
    }


def _libraries(folder: Path) -> Iterator[dict[str, Any]]:
    pins: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.rglob("*requirements*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := _PIN.match(line):
                pins.setdefault((match[1], match[2]), []).append(path.relative_to(folder).as_posix())
    for (name, pin), places in pins.items():
        url = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(pin, safe='.-_~!')}"
        component: dict[str, Any] = {"type": "library", "bom-ref": url, "name": name, "version": pin, "purl": url}
        if licences := _licences(name, pin):
            component["licenses"] = licences
        component["properties"] = [{"name": f"{WORKBENCH}:file", "value": place} for place in dict.fromkeys(places)]
        yield component


def _licences(name: str, pin: str) -> list[dict[str, Any]]:
    """As the installed distribution declares them; none where another version is installed."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return []
    if found.version != pin:
        return []
    said = {field: found.metadata.get_all(field) or [] for field in ("License-Expression", "Classifier", "License")}
    if said["License-Expression"]:
        return [{"expression": said["License-Expression"][0]}]
    classifiers = [each for each in said["Classifier"] if each.startswith("License ::")]
    names = dict.fromkeys(each.rpartition(" :: ")[2] for each in classifiers if each.count("::") > 1)
    text = "".join(said["License"]).strip()
    if not names and text and len(text) <= _LONGEST_LICENCE and "\n" not in text:
        names = {text: None}
    return [{"license": {"name": each}} for each in names]


def _model(folder: Path, origin: Origin) -> dict[str, Any]:
    """The model, and which files of the package hold it."""
    engine = origin.candidate.engine
    model = engine.model
    originals = {model.path, *(model.path.parent / name for name in model.external_files), engine.path}
    sources = {_hash(path): path.stat().st_size for path in originals if path.is_file()}
    parts = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        known = path.suffix in _MODEL_SUFFIXES
        if known or path.stat().st_size in sources.values():
            digest = _hash(path)
            if known or digest in sources:
                parts.append({"type": "file", "name": path.relative_to(folder).as_posix(), "hashes": _hashes(digest)})
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model.name,
        "hashes": _hashes(_hash(model.path)),
        "modelCard": {
            "modelParameters": {
                "inputs": [{"format": str(spec)} for spec in model.inputs],
                "outputs": [{"format": str(spec)} for spec in model.outputs],
            }
        },
        "properties": [
            {"name": f"{WORKBENCH}:backend", "value": engine.backend},
            {"name": f"{WORKBENCH}:model-sha256", "value": model.sha256},
        ],
    }
    if parts:
        component["components"] = parts
    if model.history:
        component["pedigree"] = {
            "notes": "; ".join(f"{s.transform} {portable(to_builtins(s.options))}" for s in model.history)
        }
    if origin.found.row:
        component["modelCard"]["quantitativeAnalysis"] = {"performanceMetrics": list(_metrics(origin.found.row))}
    return component


def _metrics(row: Row) -> Iterator[dict[str, Any]]:
    values = {"latency p50 ms": row.latency.p50}
    if row.accuracy:
        values[f"{row.accuracy.metric} on {row.accuracy.dataset}"] = row.accuracy.value
    for name, estimate in values.items():
        if estimate:
            interval = {"lowerBound": f"{estimate.low:.6g}", "upperBound": f"{estimate.high:.6g}"}
            yield {"type": name, "value": f"{estimate.value:.6g}", "confidenceInterval": interval}


def _hash(path: Path) -> str:
    with open_regular(path.resolve()) as stream:
        return hash_stream(stream)


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]
