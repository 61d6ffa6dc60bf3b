"""CUDA where there is no GPU: what is found, what is said, and what can be told of plans without loading them."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from workbench.artifact import Manifest
from workbench.backends import build_engine
from workbench.backends._cuda import Cuda, DeviceTimer, Gpu, gpu_names, gpus, load_api
from workbench.backends._cuda_words import NO_DEVICE, NO_MEMORY, OLD_DRIVER, driver_version, refusal
from workbench.backends._tensorrt_inspector import parse_engine_information, profile_plan, with_times
from workbench.backends._tensorrt_lane import numpy_type
from workbench.backends._tensorrt_loaded import choose_profile, make_log, misfits, said_invalid
from workbench.backends._tensorrt_log import NO_DRIVER
from workbench.backends._tensorrt_package import find_package
from workbench.backends._tensorrt_plan import misfit, refit_plan
from workbench.backends._tensorrt_runner import open_plan
from workbench.engine import Layer
from workbench.errors import EngineError, ProviderError
from workbench.jobs import silent
from workbench.model import Model

HERE = gpus()
without_gpu = pytest.mark.skipif(bool(HERE), reason="there is a GPU here; tests/gpu looks at it")

L4 = Gpu(0, "NVIDIA L4", "SM89", 24 * 10**9, "580.65.06 (CUDA 13.0)")
MANIFEST = Manifest(
    backend="tensorrt",
    model="digits_cnn",
    model_sha256="0" * 64,
    options={"hardware_compatibility": "none"},
    device="SM89",
    versions={},
    file="model.plan",
    sha256="0" * 64,
    size_bytes=1,
    seconds=1.0,
)


@without_gpu
def test_where_there_is_no_gpu_none_is_found_and_nothing_is_raised() -> None:
    assert HERE == ()
    assert gpu_names() == ()


@without_gpu
@pytest.mark.parametrize("open_it", [Cuda, DeviceTimer])
def test_using_one_is_refused_in_words(open_it: type) -> None:
    with pytest.raises(ProviderError) as caught:
        open_it()

    words = "no NVIDIA driver|sees no GPU" if importlib.util.find_spec("cuda") else "cuda-python or pycuda"
    assert caught.match(words)
    assert caught.value.remedy


def test_without_a_library_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)  # how an import is made to fail
    with pytest.raises(ProviderError, match=r"neither is installed.+deployment-workbench\[gpu\]"):
        load_api()
    assert gpus() == ()


@pytest.mark.parametrize(
    ("code", "facts", "words"),
    [
        (OLD_DRIVER, {"driver": (0, 0)}, "no NVIDIA driver"),
        (OLD_DRIVER, {"driver": (12, 2)}, r"driver is too old: it knows CUDA up to 12\.2"),
        (NO_DEVICE, {}, "sees no GPU.+CUDA_VISIBLE_DEVICES"),
        (NO_MEMORY, {"asked": 3 * 10**9, "free": 5 * 10**8}, r"3,000\.0 MB were asked for and 500\.0 MB are free"),
        ("cudaErrorIllegalAddress", {}, r"cudaErrorIllegalAddress: an illegal .+ fresh process"),
    ],
)
def test_what_cuda_answers_is_put_into_words(code: str, facts: dict, words: str) -> None:
    error = refusal(code, "an illegal memory access", **facts)

    assert re.search(words, str(error))
    assert error.remedy


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)\n", "580.65.06"),
        ("", ""),
    ],
)
def test_the_drivers_version_is_read_from_the_kernel(text: str, version: str) -> None:
    assert driver_version(text) == version


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_cuda_python_has_every_call_that_is_made() -> None:
    """By the names that stand in the file: a misspelt one would be found on a GPU only."""
    import ast
    import inspect

    from cuda.bindings import runtime

    from workbench.backends import _cuda_python

    names = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(_cuda_python)))
        if isinstance(node, ast.Attribute) and node.attr.startswith("cuda") and node.attr != "cuda"
    }
    kinds = {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaStreamCaptureModeThreadLocal"}
    assert len(names) > 20
    assert [name for name in names - kinds if not hasattr(runtime, name)] == []
    assert {name for kind in (runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode) for name in dir(kind)} >= kinds


def test_tensorrt_has_every_call_that_is_made() -> None:
    """The names of TensorRT's interface that the runner uses, looked up in the package that is installed."""
    trt = find_package("tensorrt_rtx").module
    wanted = {
        "ICudaEngine": "create_engine_inspector create_execution_context create_runtime_config "
        "create_serialization_config device_memory_size_v2 get_engine_stat get_tensor_dtype get_tensor_location "
        "get_tensor_mode get_tensor_name get_tensor_profile_shape get_tensor_shape "
        "get_weight_streaming_automatic_budget num_io_tensors num_layers num_optimization_profiles refittable "
        "serialize_with_config weight_streaming_budget_v2",
        "IExecutionContext": "execute_async_v3 get_tensor_shape infer_shapes is_stream_capturable profiler "
        "set_input_shape set_optimization_profile_async set_output_allocator set_tensor_address",
        "IRuntimeConfig": "create_runtime_cache cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy "
        "set_runtime_cache",
        "IRuntimeCache": "deserialize serialize",
        "Runtime": "deserialize_cuda_engine get_engine_validity",
        "OnnxParserRefitter": "get_error num_errors refit_from_file",
        "EngineInspector": "execution_context get_engine_information",
        "IHostMemory": "nbytes",
        "SerializationFlag": "INCLUDE_REFIT",
        "LayerInformationFormat": "JSON",
        "EngineStat": "TOTAL_WEIGHTS_SIZE",
        "TensorIOMode": "INPUT",
        "TensorLocation": "HOST",
        "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
        "DynamicShapesKernelSpecializationStrategy": "EAGER",
        "EngineValidity": "INVALID",
    }
    lacking = [
        f"{owner}.{name}"
        for owner, names in wanted.items()
        for name in names.split()
        if not hasattr(getattr(trt, owner), name)
    ]
    assert lacking == []
    for kind in trt.DataType.__members__:
        if kind not in ("INT4", "FP4"):
            assert numpy_type(kind, "x").itemsize in (1, 2, 4, 8)


def test_types_below_a_byte_are_refused_in_words() -> None:
    assert numpy_type("BF16", "x").name == "bfloat16"
    assert numpy_type("FP8", "x").name == "float8_e4m3fn"
    with pytest.raises(EngineError, match=r"'weights' is of TensorRT's type INT4"):
        numpy_type("INT4", "weights")


def test_a_plan_for_something_else_names_both_sides() -> None:
    package = find_package("tensorrt_rtx")
    fits = dataclasses.replace(MANIFEST, versions={package.name: package.version})

    assert misfit(fits, package, L4) == ""
    assert misfit(dataclasses.replace(fits, device="SM80+SM89"), package, L4) == ""
    other = dataclasses.replace(fits, device="SM75+SM120")
    assert misfit(other, package, L4) == "it was built for SM75 and SM120, and the GPU here is NVIDIA L4 (SM89)"
    wider = dataclasses.replace(fits, device="SM80", options={"hardware_compatibility": "ampere_plus"})
    assert misfit(wider, package, L4) == ""
    older = dataclasses.replace(fits, versions={package.name: "1.0.0"})
    assert misfit(older, package, L4) == f"it was built with {package.name} 1.0.0, and here is {package.version}"


SMALL = {"image": ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8)), "mask": ((1,), (2,), (4,))}
LARGE = {"image": ((2, 3, 8, 8), (16, 3, 8, 8), (32, 3, 8, 8)), "mask": ((1,), (2,), (4,))}


@pytest.mark.parametrize(
    ("batch", "profile"), [(1, 0), (2, 0), (4, 0), (5, 1), (16, 1), (32, 1), (33, None), (0, None)]
)
def test_the_profile_nearest_to_the_shapes_is_taken(batch: int, profile: int | None) -> None:
    assert choose_profile({"image": (batch, 3, 8, 8), "mask": (2,)}, [SMALL, LARGE]) == profile


def test_shapes_that_no_profile_allows_are_told_with_what_is() -> None:
    told = misfits({"image": (64, 3, 8, 8), "mask": (2,)}, [SMALL, LARGE])

    assert told == "'image' is 64×3×8×8, allowed are 1–4×3×8×8 or 2–32×3×8×8"
    assert misfits({"x": ()}, [{"x": ((1,), (1,), (1,))}]) == "'x' is a scalar, allowed are 1"


# Written after the documentation of the engine inspector, not taken from a run: nobody has run one on a GPU here.
DETAILED = """{"Layers": [{
  "Name": "stem/conv + stem/relu",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "image", "Location": "Device", "Dimensions": [8,16,56,56],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
  "Outputs": [{"Name": "stem", "Location": "Device", "Dimensions": [8,64,56,56],
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
  "ParameterType": "Convolution", "Kernel": [3,3], "TacticName": "sm80_xmma_fprop_implicit_gemm", "StreamId": 0,
  "Metadata": "[ONNX Layer: stem/conv]\u001e[ONNX Layer: stem/relu]"
},{
  "Name": "__myl_MulAddRelu_myl0_3",
  "LayerType": "kgen",
  "Inputs": [{"Name": "a", "Dimensions": [-1,4], "Format/Datatype": "Float"}],
  "Outputs": [{"Name": "b", "Dimensions": [-1,4], "Format/Datatype": "Float"}],
  "TacticName": "__myl_MulAddRelu", "Metadata": "[ONNX Layer: scale]"
},{
  "Name": "Reformatting CopyNode for Input Tensor 0 to stem/conv + stem/relu", "LayerType": "Reformat",
  "Inputs": [{"Name": "image", "Dimensions": [8,16,56,56], "Format/Datatype": "Row major linear FP32"}],
  "Outputs": [{"Name": "image'", "Dimensions": [8,16,56,56], "Format/Datatype": "Row major linear BFloat16"}],
  "Metadata": ""
},{
  "Name": "quantize", "LayerType": "Quantize",
  "Inputs": [{"Name": "q", "Dimensions": [2,2], "Format/Datatype": "Half"}],
  "Outputs": [{"Name": "r", "Dimensions": [2,3], "Format/Datatype": "FP8"}], "Metadata": "[ONNX Layer: quantize]"
},{
  "Name": "stem/conv + stem/relu [profile 1]", "LayerType": "CaskConvolution", "Inputs": [], "Outputs": []
},{
  "Name": "__mye1", "LayerType": "shape_call", "Inputs": [], "Outputs": []
}], "Bindings": ["image", "logits"]}"""


def test_the_inspectors_layers_are_read() -> None:
    convolution, fused, reformat, quantize = parse_engine_information(DETAILED)

    assert convolution == Layer(
        name="stem/conv + stem/relu",
        operator="CaskConvolution",
        precision="int8",
        sources=("stem/conv", "stem/relu"),
        provider="CaskConvolution",
        output_precision="float16",
        output_bytes=8 * 64 * 56 * 56 * 2,
    )
    assert (fused.operator, fused.kind, fused.precision) == ("MulAddRelu", "compute", "float32")
    assert fused.output_bytes is None
    assert (reformat.kind, reformat.precision, reformat.output_precision) == ("reformat", "float32", "bfloat16")
    assert (quantize.kind, quantize.output_precision, quantize.output_bytes) == ("quantize", "float8", 6)


def test_a_plan_that_tells_names_alone_is_read_too() -> None:
    [layer] = parse_engine_information('{"Layers": ["stem/conv + stem/relu"], "Bindings": ["image"]}')

    assert (layer.name, layer.operator, layer.precision, layer.output_bytes) == (
        "stem/conv + stem/relu",
        "stem/conv + stem/relu",
        "",
        None,
    )


def test_times_come_to_layers_by_name_and_none_is_lost() -> None:
    layers = parse_engine_information(DETAILED)
    timed = with_times(layers, {layers[0].name: 0.5, layers[1].name: 0.25, "copied besides": 0.125})

    assert [layer.ms for layer in timed] == [0.5, 0.25, 0.0, 0.0, 0.125]
    assert timed[-1].kind == "reformat"


@without_gpu
def test_a_plan_is_not_run_without_a_gpu_and_says_so(tiny: Model, tmp_path: Path) -> None:
    engine = build_engine(tiny, "tensorrt")
    with pytest.raises(ProviderError, match=r"tiny cannot run on TensorRT-RTX \S+ here: there is no NVIDIA driver\. "):
        open_plan(engine).__enter__()
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        profile_plan(engine, {"x": np.ones((1, 4), np.float32)}, 0.1, silent)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        refit_plan(engine.path, tiny.path, tmp_path / "new.plan")
    assert not (tmp_path / "new.plan").exists()
    # What is wrong with the file is said first.
    engine.path.write_bytes(engine.path.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"The engine of tiny cannot be used: .+ bytes in place of"):
        open_plan(engine).__enter__()


def test_what_tensorrt_is_handed_answers_to_it() -> None:
    """The classes that TensorRT calls back, made of the real ones."""
    trt = find_package("tensorrt_rtx").module
    log = make_log(trt)
    log.log(trt.ILogger.Severity.WARNING, "of no matter")
    log.log(trt.ILogger.Severity.ERROR, f"IRuntime::x: Error Code 1: Cuda Runtime ({NO_DRIVER}: too old)")
    assert log.reason() == "there is no NVIDIA driver"
    log.log(trt.ILogger.Severity.ERROR, "IRuntime::load: Error Code 4: Internal Error (the plan is cut short)")
    log.log(trt.ILogger.Severity.ERROR, "what follows from that")
    assert "the plan is cut short" in log.reason()
    assert log.reason() == "it does not say why"

    runtime = trt.Runtime(log)
    assert said_invalid(runtime, trt, b"no plan at all" * 9) == "the file is no plan"
    assert said_invalid(runtime, trt, b"") == "the file is no plan"
