"""The three configuration files of TensorFlow Serving and the flags that name them, each number from the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.errors import ExportError
from workbench.exporters import Contents
from workbench.exporters._parts import why_no_batches
from workbench.serving_measurements import Derived

MODELS, BATCHING, MONITORING = "models.config", "batching.config", "monitoring.config"
METRICS = "/monitoring/prometheus/metrics"

_MOUNTED = "/models"  # where the container sees the folder of the same name


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        size: Most samples of one batch; 1 where requests are not put together.
        source: Why.
    """

    size: int
    source: str


def find_batching(contents: Contents) -> Batching:
    """How requests are put together: as the plan says, where every tensor has a batch axis that takes any size."""
    model, wanted = contents.candidate.engine.model, contents.plan.max_batch
    if wanted.value <= 1:
        return Batching(1, wanted.source)
    if reason := why_no_batches(model):
        return Batching(1, reason)
    return Batching(int(wanted.value), wanted.source)


def models_config(name: str, served_versions: int) -> str:
    """The text of a ModelServerConfig.

    Raises:
        ExportError: TensorFlow Serving's schema does not allow it.
    """
    text = f"""\
# The models that are served. TensorFlow Serving takes absolute paths only: this is the one inside the container.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "{_MOUNTED}/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: {served_versions} }} }}  # the newest, side by side
  }}
}}
"""
    _check(text)
    return text


def batching_config(contents: Contents, batching: Batching) -> str:
    """The text of BatchingParameters."""
    plan = contents.plan
    batches = math.ceil(plan.queue.value / batching.size)
    queue = f"{plan.queue.value:g} requests in batches of {batching.size}: {plan.queue.source}"
    lines = [
        f"# How requests for {contents.name} are put together. Behind a number: what it was derived from.",
        _number("max_batch_size", batching.size, batching.source),
        _number("batch_timeout_micros", round(1000 * plan.batch_wait_ms.value), plan.batch_wait_ms.source),
        _number("max_enqueued_batches", batches, queue),
        _number("num_batch_threads", math.ceil(plan.instances.value), plan.instances.source),
        "# allowed_batch_sizes is left out: batches would be filled up to one of them, and the model takes any.",
    ]
    return "\n".join(lines) + "\n"


def monitoring_config() -> str:
    """The text of a MonitoringConfig."""
    return f"""\
# Metrics for Prometheus, on the port of REST.
prometheus_config {{
  enable: true
  path: "{METRICS}"
}}
"""


def flags(contents: Contents, batching: Batching, folder: str = _MOUNTED) -> dict[str, str]:
    """Flag of `tensorflow_model_server` → what its number was derived from; empty where it names a file.

    Args:
        contents: What is packed.
        batching: How requests are put together.
        folder: Where the server finds the folder `models`.
    """
    plan = contents.plan
    found = {f"--monitoring_config_file={folder}/{MONITORING}": ""}
    if batching.size > 1:
        found |= {"--enable_batching=true": "", f"--batching_parameters_file={folder}/{BATCHING}": ""}
    return found | {
        _flag("tensorflow_intra_op_parallelism", plan.cpu_cores): f"all requests share them: {plan.cpu_cores.source}",
        _flag("tensorflow_inter_op_parallelism", plan.instances): plan.instances.source,
        f"--rest_api_timeout_in_ms={round(1000 * plan.request_seconds.value)}": plan.request_seconds.source,
    }


def _check(text: str) -> None:
    """Reads models.config with TensorFlow Serving's own schema; its package has none of the other two files."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise ExportError(
            f"{MODELS} breaks TensorFlow Serving's schema: {error}.", "Report it with the model's name."
        ) from None


def _number(name: str, value: int, source: str) -> str:
    return f"{name} {{ value: {value} }}  # {' '.join(source.split())}"


def _flag(name: str, number: Derived) -> str:
    return f"--{name}={max(1, math.ceil(number.value))}"
