"""Kubernetes: manifests for kustomize, canary and A/B routes, a KServe alternative, and the image's build context."""

from __future__ import annotations

import json
import math
import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

from workbench.errors import ExportError, OptionsError
from workbench.exporters import Contents
from workbench.exporters.kubernetes.checks import check_manifests
from workbench.exporters.kubernetes.sizing import Server, Wanted, size
from workbench.options import option
from workbench.plugins import find_plugin
from workbench.serving_measurements import Derived

REQUIRES: dict[str, str] = {}  # the server's exporter says itself what the image needs
COMMAND = ()  # kubectl and a cluster start it
OWN_SERVER = True

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"{_LABEL}(\.{_LABEL})*"
_IMAGE = rf"({_HOST}(:\d{{1,5}})?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_FORMS = {
    _LABEL: "Take small letters, digits and hyphens, with a letter or digit at both ends, 63 at most",
    _HOST: "Take a host name in small letters",
    _IMAGE: "Take a name in small letters, behind the registry's host, without a tag",
    _TAG: "Take letters, digits, dots, hyphens and underscores, 63 at most",
}
_ROOM_FOR_SUFFIXES = 40  # of the 63 characters of a name; `-canary` and a hash follow
_NOT_PLAIN = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # words that YAML reads as something else


@dataclass(frozen=True)
class Options:
    """Where it runs, how it is reached and how large it may grow."""

    image: Annotated[
        str,
        option("Name of the image, with its registry; the model's if empty.", example="registry.example.com/digits"),
    ] = ""
    tag: Annotated[str, option("Tag of the image; another one for every build.", example="1.0")] = "1"
    namespace: Annotated[str, option("Namespace of production; staging has it with '-staging' behind.")] = "models"
    host: Annotated[
        str,
        option("Host name that it is reached under; staging has 'staging.' before it.", example="models.example.com"),
    ] = "models.example.com"
    target_rate: (
        Annotated[
            float,
            option(
                "Queries that the fewest replicas must take; min_replicas alone counts if not given.",
                minimum=0.001,
                maximum=1e6,
                unit="queries/s",
                example="200",
            ),
        ]
        | None
    ) = None
    min_replicas: Annotated[
        int, option("Least number of replicas; two outlive the loss of a node.", minimum=1, maximum=1000)
    ] = 2
    max_replicas: (
        Annotated[
            int,
            option(
                "Largest number of replicas; three times the fewest if not given.", minimum=1, maximum=5000, example="6"
            ),
        ]
        | None
    ) = None
    canary_weight: Annotated[
        int, option("Requests that the canary gets at first.", minimum=0, maximum=100, unit="%")
    ] = 10
    ab_header: Annotated[
        str, option("Header that, with the value 'b', leads to the second version.", advanced=True)
    ] = "x-variant"
    key_secret: Annotated[
        str,
        option(
            "Secret whose entry 'key' callers must send; without one, the NetworkPolicy and the gateway keep strangers "
            "out.",
            example="digits-key",
        ),
    ] = ""
    gateway: Annotated[str, option("Name of the Gateway that routes are attached to.", advanced=True)] = "gateway"
    gateway_namespace: Annotated[str, option("Namespace of that Gateway.", advanced=True)] = "gateway-system"
    monitoring_namespace: Annotated[
        str, option("Namespace from which Prometheus reads the metrics.", advanced=True)
    ] = "monitoring"
    rate_metric: Annotated[
        str,
        option(
            "Metric of a pod's queries per second, if the cluster has an adapter for it; scaled by beside the CPU.",
            advanced=True,
            example="inference_requests_per_second",
        ),
    ] = ""


def backends() -> tuple[str, ...]:
    """The backends whose candidates it serves: those of the server inside."""
    served: tuple[str, ...] = find_plugin("exporters", "server").backends()
    return served


def export(contents: Contents, options: Options, directory: Path) -> None:
    """Fills `directory` with `image/`, `base/`, `overlays/`, `canary/`, `kserve/` and a README.

    Raises:
        OptionsError: A name that Kubernetes would refuse, or replicas that do not fit the rate.
        ExportError: The server cannot serve the candidate, or a check finds a fault in what was written.
    """
    model = contents.name
    name = _dns_name(model)
    words = _words(options, name, model)
    server, image = find_plugin("exporters", "server"), directory / "image"
    image.mkdir()
    server.export(contents, server.Options(api_key="environment" if options.key_secret else "none"), image)
    wanted = Wanted(options.target_rate, options.min_replicas, options.max_replicas, options.canary_weight / 100)
    numbers = size(contents.plan, wanted, _read_settings(image))
    words |= {key: f"{_written(number)} # {_source(number)}" for key, number in numbers.items()}
    words["before_stop"] = re.sub(r"^(\d+)", r'"\1"', words["before_stop"])  # an argument of a command is text
    words |= _extras(contents.candidate.engine.device, options, numbers)
    words |= {"candidate": _line(contents.candidate.name), "table": _table(numbers)}
    templates = Path(__file__).parent / "templates"
    for template in sorted(templates.rglob("*.*")):
        target = directory / template.relative_to(templates)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    shutil.copyfile(image / "config.json", directory / "base" / "config.json")
    if faults := check_manifests(directory):
        raise ExportError(f"The manifests have faults: {'; '.join(faults)}.", "Choose other names in the options.")


def _read_settings(image: Path) -> Server:
    settings = json.loads((image / "config.json").read_bytes())
    served, limits = settings["models"][0], settings["limits"]
    body = (image / "sample_request.json").stat().st_size / 1e6
    return Server(served["queue"], body, limits["body_seconds"], served["request_seconds"])


def _words(options: Options, name: str, model: str) -> dict[str, str]:
    """Names and addresses, each of a form that Kubernetes takes and YAML reads as text."""
    image, staging = options.image or name, f"{options.namespace}-staging"
    checked = {
        "image": (image, _IMAGE),
        "tag": (options.tag, _TAG),
        "namespace": (staging, _LABEL),
        "host": (f"staging.{options.host}", _HOST),
        "ab_header": (options.ab_header.lower(), _LABEL),
        "key_secret": (options.key_secret or "none", _LABEL),
        "gateway": (options.gateway, _LABEL),
        "gateway_namespace": (options.gateway_namespace, _LABEL),
        "monitoring_namespace": (options.monitoring_namespace, _LABEL),
        "rate_metric": (options.rate_metric or "none", _TAG),
    }
    for field, (value, form) in checked.items():
        if not re.fullmatch(form, value) or len(value) > 253:
            raise OptionsError(f"exporter kubernetes cannot take {field} = {value!r:.80}.", f"{_FORMS[form]}.")
    return {
        "name": name,
        "model": model,
        "image": _text(image),
        "image_ref": _text(f"{image}:{options.tag}"),
        "tag": options.tag,
        "namespace": _text(options.namespace),
        "staging_namespace": _text(staging),
        "host": _text(options.host),
        "staging_host": f"staging.{options.host}",
        "ab_header": _text(options.ab_header),
        "gateway": _text(options.gateway),
        "gateway_namespace": _text(options.gateway_namespace),
        "monitoring_namespace": _text(options.monitoring_namespace),
    }


def _extras(device: str, options: Options, numbers: Mapping[str, Derived]) -> dict[str, str]:
    """Parts that only some packages have: a GPU, a second metric to scale by."""
    gpu = f'nvidia.com/gpu: "1" # the candidate runs on {_line(device)}'
    has_gpu = re.search("CUDA|NVIDIA|Tensorrt|TensorRT", device) is not None
    rate = numbers["rate_target"]
    metric = f"""
    - type: Pods
      pods:
        metric:
          name: {_text(options.rate_metric or "none")}
        target:
          type: AverageValue
          averageValue: "{math.ceil(1000 * rate.value)}m" # queries/s: {_source(rate)}"""
    key = f"""
env:
  - name: WORKBENCH_API_KEY # what callers must send
    valueFrom:
      secretKeyRef:
        name: {_text(options.key_secret or "none")}
        key: key"""
    create = f"    kubectl -n {options.namespace} create secret generic {options.key_secret} --from-literal=key=…\n"
    return {
        "key_line": create if options.key_secret else "",
        "key": textwrap.indent(key, 10 * " ") if options.key_secret else "",
        "key_shallow": textwrap.indent(key, 8 * " ") if options.key_secret else "",
        "gpu": f"\n{14 * ' '}{gpu}" if has_gpu else "",
        "gpu_shallow": f"\n{12 * ' '}{gpu}" if has_gpu else "",
        "rate_metric": metric if options.rate_metric else "",
    }


def _written(number: Derived) -> str:
    """A number as its field takes it; quantities are quoted, as they are text to Kubernetes."""
    if number.unit == "cores":
        return f'"{number.value:g}"' if number.value == int(number.value) else f'"{math.ceil(1000 * number.value)}m"'
    if number.unit == "MB":
        return f'"{number.value:.0f}M"'
    return f"{number.value:.0f}"


def _table(numbers: Mapping[str, Derived]) -> str:
    rows = [(key.replace("_", " "), f"{one.value:g} {one.unit}".strip(), _source(one)) for key, one in numbers.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _source(number: Derived) -> str:
    """What a number comes from, and whether that was measured where the words do not say it."""
    said = number.measured or re.search("measured|usual|option", number.source)
    return _line(number.source if said else f"{number.source}; not measured")


def _dns_name(model: str) -> str:
    """The model's name as Services and host names take it."""
    name = model.replace("_", "-")[:_ROOM_FOR_SUFFIXES].strip("-") or "model"
    return name if _plain(name) else f"m-{name}"


def _text(value: str) -> str:
    """A checked name as YAML reads it back, as text."""
    return value if _plain(value) else json.dumps(value)


def _plain(value: str) -> bool:
    """Whether YAML reads a checked name as text; `1e3`, `null` and `y` are something else to it."""
    return value[0].isalpha() and value.lower() not in _NOT_PLAIN


def _line(words: Any) -> str:
    """Free text that stays inside its comment or cell."""
    return " ".join(str(words).split()).replace("|", "/")
