"""The messages of the Open Inference Protocol V2 over gRPC, as far as this server speaks it.

Fields that are not listed, such as parameters, are skipped when a message is read. Names and numbers are the protocol's
own; where it nests a message in another, it stands here beside it, which the wire does not tell.
"""

from __future__ import annotations

from typing import Any

SERVICE = "inference.GRPCInferenceService"

_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "InferTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; InferTensorContents contents = 5",
    "InferRequestedOutputTensor": "string name = 1",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    "repeated InferTensor inputs = 5; repeated InferRequestedOutputTensor outputs = 6; "
    "repeated bytes raw_input_contents = 7",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    "repeated InferTensor outputs = 5; repeated bytes raw_output_contents = 6",
}


def message_classes() -> dict[str, Any]:
    """The classes of all messages by their names, in a pool of their own: another library may have the same names."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split("; ")):
            *repeated, kind, field_name, _, number = field.split()
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            added = message.field.add(name=field_name, number=int(number), label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".inference.{kind}"
            else:
                added.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES
    }
