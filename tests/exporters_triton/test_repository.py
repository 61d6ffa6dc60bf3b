"""The exporter `triton`: what it writes, read with Triton's own schema; what it refuses, and in which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, open_runner
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import ExportError
from workbench.exporters import Contents
from workbench.exporters.triton import Options, export
from workbench.exporters.triton._pbtxt import Field, Word, check_config, write_pbtxt
from workbench.importers import load_model
from workbench.model import Model
from workbench.serving_measurements import Derived
from workbench.serving_plan import plan_serving

FP32 = 11  # TYPE_FP32 of the schema


def contents_of(candidate: Candidate, data: Dataset, **numbers: Derived) -> Contents:
    """What the verb hands over, with some numbers of the plan as a measurement would have given them."""
    with open_runner(candidate.engine) as runner:
        answer = runner.infer(data.inputs)
    plan = replace(plan_serving(candidate, None, data, own_server=False), **numbers)
    return Contents(candidate, "served", data.inputs, answer, None, plan)


def packed(contents: Contents, folder: Path, options: Options | None = None) -> Any:
    """Exports into a folder, and reads the configuration with Triton's schema."""
    export(contents, options or Options(), folder)
    config = check_config((folder / "model_repository/served/config.pbtxt").read_text())
    assert config is not None, "the extra triton is not installed"
    return config


@pytest.fixture
def one(tiny_data: Dataset) -> Dataset:
    return tiny_data.take(1)


@pytest.fixture
def candidate(tiny: Model) -> Candidate:
    return Candidate("as it is", build_engine(tiny, options={"threads": 1}))


BATCHED = {
    "max_batch": Derived(8, "samples", "1.4 × the throughput of batch 1 in the sweep"),
    "batch_wait_ms": Derived(1.25, "ms", "0.5 × the 2.5 ms of such a batch"),
    "instances": Derived(3, "instances", "the most throughput of 4 measured settings at batch 1"),
    "threads": Derived(2, "threads", "the most throughput of 4 measured settings at batch 1"),
    "queue": Derived(77, "requests", "1 s of 77 queries/s"),
    "request_seconds": Derived(1.5, "s", "20 × the 99th percentile"),
}


def test_the_numbers_are_those_of_the_plan_and_say_what_they_come_from(
    candidate: Candidate, one: Dataset, tmp_path: Path
) -> None:
    config = packed(contents_of(candidate, one, **BATCHED), tmp_path, Options(version=4, served_versions=2))

    assert (config.name, config.backend, config.max_batch_size) == ("served", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    assert config.version_policy.latest.num_versions == 2
    assert [(i.kind, i.count) for i in config.instance_group] == [(config.instance_group[0].KIND_CPU, 3)]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1250
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [("sample", 1), ("batch", 8)]
    text = (tmp_path / "model_repository/served/config.pbtxt").read_text()
    for name, number in BATCHED.items():
        assert (f"# {number.source}" in text) == (name not in ("queue", "request_seconds"))
    assert (tmp_path / "model_repository/served/4/model.onnx").is_file()
    readme = (tmp_path / "README.md").read_text()
    assert "| instances | 3 instances |" in readme


@pytest.mark.parametrize(("numbers", "preferred"), [(BATCHED, [8]), ({}, [])])
def test_the_queue_is_limited_where_that_is_asked_for(
    candidate: Candidate, one: Dataset, tmp_path: Path, numbers: dict[str, Derived], preferred: list[int]
) -> None:
    limits = {name: BATCHED[name] for name in ("queue", "request_seconds")}
    config = packed(contents_of(candidate, one, **{**numbers, **limits}), tmp_path, Options(queue_limits=True))
    policy = config.dynamic_batching.default_queue_policy

    assert list(config.dynamic_batching.preferred_batch_size) == preferred
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (77, 1_500_000)
    assert policy.timeout_action == policy.REJECT
    assert "Any number of requests may wait" not in (tmp_path / "README.md").read_text()


def test_the_tensors_are_the_model_s_without_the_batch(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    config = packed(contents_of(candidate, one), tmp_path)

    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("x", FP32, [4])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("scores", [3])]
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


def test_the_warm_up_is_the_sample(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    config = packed(contents_of(candidate, one, **BATCHED), tmp_path)
    for warm_up in config.model_warmup:
        (key, value), *others = warm_up.inputs.items()
        file = tmp_path / "model_repository/served/warmup" / value.input_data_file
        assert (key, list(value.dims), others) == ("x", [4], [])
        assert np.array_equal(np.fromfile(file, np.float32), one.inputs["x"][0])


def test_the_expected_answer_is_the_runner_s(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    contents = contents_of(candidate, one)
    export(contents, Options(), tmp_path)
    (tensor,) = json.loads((tmp_path / "sample_response.json").read_text())["outputs"]

    assert tensor["shape"] == [1, 3]
    assert np.array_equal(np.float32(tensor["data"]), contents.answer["scores"].ravel())


def test_a_fixed_batch_is_served_without_batches(
    tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset
) -> None:
    model = load_model(model_file(tmp_path / "m.onnx", batch=5, external="m.data"))
    contents = contents_of(Candidate("fixed", build_engine(model)), tiny_data.take(5), **BATCHED)
    (out := tmp_path / "package").mkdir()
    config = packed(contents, out)

    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [5, 4])
    assert not config.dynamic_batching.preferred_batch_size
    assert [w.batch_size for w in config.model_warmup] == [1]
    assert (out / "model_repository/served/1/m.data").read_bytes() == (tmp_path / "m.data").read_bytes()
    readme = (out / "README.md").read_text()
    assert "They are not put together: the model's batch is fixed at 5." in readme


def test_a_batch_in_one_request_may_be_larger_than_what_is_put_together(
    candidate: Candidate, one: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "off").mkdir()
    (tmp_path / "on").mkdir()
    off = packed(contents_of(candidate, one), tmp_path / "off", Options(request_batch=32))
    on = packed(contents_of(candidate, one, **BATCHED), tmp_path / "on", Options(request_batch=32))

    assert (off.max_batch_size, off.HasField("dynamic_batching")) == (32, False)
    assert (on.max_batch_size, list(on.dynamic_batching.preferred_batch_size)) == (32, [8])


def write_odd(path: Path, factor: list[str | int]) -> Model:
    """A name that must be escaped, and tensors with no axis beside the batch's."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ['a/"é', "factor"], ["scaled"]),
            helper.make_node("ReduceMax", ["scaled"], ["top"], axes=[1], keepdims=0),
        ],
        "odd",
        [
            helper.make_tensor_value_info('a/"é', TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, factor),
        ],
        [
            helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("top", TensorProto.FLOAT, ["batch"]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def odd_contents(model: Model, factor: Any) -> Contents:
    candidate = Candidate("odd", build_engine(model))
    feed = {'a/"é': np.ones((1, 6), np.float32), "factor": np.array(factor, np.float32)}
    with open_runner(candidate.engine) as runner:
        answer = runner.infer(feed)
    return Contents(candidate, "served", feed, answer, None, plan_serving(candidate, own_server=False))


def test_odd_names_and_tensors_with_the_batch_alone_are_told_to_triton(tmp_path: Path) -> None:
    contents = odd_contents(write_odd(tmp_path / "odd.onnx", ["batch"]), [2])
    (out := tmp_path / "package").mkdir()
    config = packed(contents, out)
    table, factor = config.input

    assert config.max_batch_size == 1
    assert (table.name, list(table.dims)) == ('a/"é', [-1])
    for tensor in (factor, config.output[1]):
        assert (list(tensor.dims), tensor.HasField("reshape"), list(tensor.reshape.shape)) == ([1], True, [])
    request = json.loads((out / "sample_request.json").read_text())
    assert [tensor["shape"] for tensor in request["inputs"]] == [[1, 6], [1, 1]]
    assert all((out / "model_repository/served/warmup" / f"input-{n}").is_file() for n in range(2))
    assert "--input-data=zero --shape=a/" in (out / "README.md").read_text()


def test_a_tensor_without_axes_is_refused(tmp_path: Path) -> None:
    contents = odd_contents(write_odd(tmp_path / "odd.onnx", []), 2)
    (out := tmp_path / "package").mkdir()
    with pytest.raises(ExportError, match=r"'factor' has no axes.*Triton.*axis of size 1"):
        export(contents, Options(), out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("level", "number"), [("all", 0), ("extended", 1), ("basic", -1), ("disabled", 2)])
def test_the_graph_level_is_the_candidate_s(tiny: Model, one: Dataset, tmp_path: Path, level: str, number: int) -> None:
    candidate = Candidate("c", build_engine(tiny, options={"graph_level": level, "arena": False}))
    config = packed(contents_of(candidate, one), tmp_path)

    assert config.optimization.graph.level == number
    assert config.parameters["enable_mem_arena"].string_value == "0"


def test_what_triton_cannot_set_is_said(tiny: Model, one: Dataset, tmp_path: Path) -> None:
    engine = build_engine(tiny, options={"float_layers": "keep", "spinning": False})
    export(contents_of(Candidate("c", engine), one), Options(), tmp_path)
    readme = (tmp_path / "README.md").read_text()

    assert "WeightBiasQuantization off. Triton has no setting for that" in readme
    assert "threads that sleep while they wait" in readme
    assert f"measured with onnxruntime {engine.versions['onnxruntime']}" in readme


def test_openvino_takes_any_batch_and_a_stream_for_each_instance(tiny: Model, one: Dataset, tmp_path: Path) -> None:
    engine = build_engine(tiny, "openvino", options={"precision": "float32"})
    cores = Derived(6, "cores", "3 × 2 threads")
    config = packed(contents_of(Candidate("c", engine), one, **BATCHED, cpu_cores=cores), tmp_path)
    settings = {key: value.string_value for key, value in config.parameters.items()}

    assert (config.backend, config.max_batch_size, list(config.input[0].dims)) == ("openvino", 0, [-1, 4])
    assert settings == {"INFERENCE_NUM_THREADS": "6", "NUM_STREAMS": "3", "PERFORMANCE_HINT": "LATENCY"}
    readme = (tmp_path / "README.md").read_text()
    assert "puts no requests together" in readme
    assert "The candidate computes in float32. Triton has no setting for that" in readme


def test_a_plan_of_tensorrt_is_served_within_its_batches(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    """Triton reads nothing of the plan before it loads it, so that the configuration is the same without a GPU."""
    engine = Engine(
        candidate.engine.model, "tensorrt", {"max_batch": 4}, "SM80", tmp_path / "engine", {"tensorrt": "10.9"}
    )
    engine.path.write_bytes(b"what TensorRT wrote")
    contents = replace(contents_of(candidate, one, **BATCHED), candidate=Candidate("plan", engine))
    (out := tmp_path / "package").mkdir()
    config = packed(contents, out)

    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (4, [4])
    assert (out / "model_repository/served/1/model.plan").read_bytes() == b"what TensorRT wrote"
    assert "built by TensorRT 10.9 for SM80" in (out / "README.md").read_text()
    assert "--gpus=all" in (out / "README.md").read_text()


def test_a_gpu_s_provider_gets_its_options(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    options = {**candidate.engine.options, "provider_options": ("trt_max_workspace_size=1000", "trt_sparsity_enable=1")}
    engine = replace(candidate.engine, device="TensorrtExecutionProvider", options=options)
    config = packed(replace(contents_of(candidate, one), candidate=Candidate("c", engine)), tmp_path)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator

    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {"max_workspace_size_bytes": "1000", "trt_sparsity_enable": "1"}
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backend": "litert"}, "no backend that runs as it is as litert does.*ONNX Runtime, OpenVINO or TensorRT"),
        ({"device": "OpenVINOExecutionProvider"}, "does not take the settings of OpenVINOExecutionProvider"),
        ({"backend": "openvino", "device": "GPU"}, "on the CPU only.*built for GPU.*device CPU"),
        ({"backend": "tensorrt", "versions": {"tensorrt_rtx": "1.7"}}, "TensorRT-RTX.*package tensorrt"),
    ],
)
def test_what_triton_cannot_run_is_refused(
    candidate: Candidate, one: Dataset, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    contents = contents_of(candidate, one)
    engine = replace(candidate.engine, **changes)
    with pytest.raises(ExportError, match=words):
        export(replace(contents, candidate=replace(candidate, engine=engine)), Options(), tmp_path)
    assert list(tmp_path.glob("model_repository")) == []


def test_a_tensor_of_another_kind_is_refused(candidate: Candidate, one: Dataset, tmp_path: Path) -> None:
    contents = contents_of(candidate, one)
    (spec,) = candidate.engine.model.outputs
    model = replace(candidate.engine.model, outputs=(replace(spec, dtype="bfloat16"),))
    engine = replace(candidate.engine, model=model)
    with pytest.raises(ExportError, match=r"'scores' is bfloat16.*Cast it"):
        export(replace(contents, candidate=replace(candidate, engine=engine)), Options(), tmp_path)


def test_a_configuration_that_breaks_the_schema_is_noticed() -> None:
    check_config(write_pbtxt([Field("name", "good"), Field("input", (Field("dims", [1, -1]),))], "A model."))
    for bad in (Field("batch", 3), Field("max_batch_size", "three"), Field("input", (Field("data_type", Word("F")),))):
        with pytest.raises(ExportError, match="breaks Triton's schema"):
            check_config(write_pbtxt([bad], "A model."))
