"""The schemas of batching.config and monitoring.config, of which tensorflow-serving-api holds neither."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

FIELD = descriptor_pb2.FieldDescriptorProto
NUMBERS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")


def parse(text: str, message: str) -> Any:
    """Reads one of the two files; `message` is BatchingParameters or MonitoringConfig."""
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto", package="tensorflow.serving", syntax="proto3", dependency=[wrappers.name]
    )
    batching = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(NUMBERS, 1):
        _add(batching, name, number, FIELD.TYPE_MESSAGE, ".google.protobuf.Int64Value")
    prometheus = file.message_type.add(name="PrometheusConfig")
    _add(prometheus, "enable", 1, FIELD.TYPE_BOOL)
    _add(prometheus, "path", 2, FIELD.TYPE_STRING)
    monitoring = file.message_type.add(name="MonitoringConfig")
    _add(monitoring, "prometheus_config", 1, FIELD.TYPE_MESSAGE, ".tensorflow.serving.PrometheusConfig")
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"tensorflow.serving.{message}")
    return text_format.Parse(text, message_factory.GetMessageClass(found)())


def _add(message: Any, name: str, number: int, kind: Any, type_name: str = "") -> None:
    field = message.field.add(name=name, number=number, type=kind, label=FIELD.LABEL_OPTIONAL)
    if type_name:
        field.type_name = type_name
