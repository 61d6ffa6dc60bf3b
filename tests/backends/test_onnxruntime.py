"""ONNX Runtime: what it is asked to do is what it does, or it is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, check_build, open_runner
from workbench.backends._onnxruntime_providers import provider_settings, read_provider_options
from workbench.dataset import Dataset
from workbench.engine import AsyncRunner, BuildCheck, Engine, Layer, Tensors
from workbench.errors import EngineError, ModelError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import Workspace


def test_an_engine_tells_what_decides_its_result(tiny: Model) -> None:
    engine = build_engine(tiny, options={"threads": 1})

    assert (engine.backend, engine.device, engine.path) == ("onnxruntime", "CPUExecutionProvider", tiny.path)
    assert engine.options == {
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "graph_level": "all",
        "spinning": True,
        "float_layers": "quantize",
        "provider_options": [],
        "arena": True,
        "binding": False,
    }
    assert engine.versions == {"onnxruntime": onnxruntime.__version__}


def test_no_threads_means_every_core(tiny: Model) -> None:
    assert 1 <= build_engine(tiny).options["threads"] <= (psutil.cpu_count() or 1)


def test_a_runner_infers(tiny: Model, tiny_data: Dataset) -> None:
    with open_runner(build_engine(tiny)) as runner:
        outputs = runner.infer(tiny_data.inputs)

    np.testing.assert_array_equal(outputs["scores"], 2 * tiny_data.inputs["x"][:, :3])
    assert runner.placement == {"CPUExecutionProvider": runner.placement["CPUExecutionProvider"]}


def test_a_bound_call_gives_what_the_session_gives(tiny: Model, tiny_data: Dataset) -> None:
    with open_runner(build_engine(tiny, options={"threads": 1})) as runner:
        [scores] = runner.bind(tiny_data.inputs)()

    np.testing.assert_array_equal(scores, 2 * tiny_data.inputs["x"][:, :3])


def test_a_bound_call_reads_and_writes_in_place(digits: Model, evaluation: Dataset) -> None:
    """Also from memory that ONNX Runtime could not read as it lies."""
    image = np.asfortranarray(evaluation.take(3).inputs["image"])
    with open_runner(build_engine(digits, options={"threads": 1, "binding": True})) as runner:
        expected = runner.infer({"image": image})["logits"]
        call = runner.bind({"image": image})
        for _ in range(3):
            call()
        [logits] = call.args[0].get_outputs()  # type: ignore[attr-defined]

    np.testing.assert_array_equal(logits.numpy(), expected)


def test_requests_run_beside_the_caller(tiny: Model) -> None:
    feeds = [{"x": np.full((1 + number % 3, 4), number, np.float32)} for number in range(100)]
    with open_runner(build_engine(tiny, options={"threads": 2})) as runner:
        assert isinstance(runner, AsyncRunner)
        futures = [runner.submit(feed) for feed in feeds]
        answers = [future.result(10)["scores"] for future in futures]
        refused = runner.submit({"x": np.zeros((1, 5), np.float32)})
        with pytest.raises(ModelError, match=r"cannot run tiny: .*Got: 5 Expected: 4"):
            refused.result(10)

    for number, (feed, answer) in enumerate(zip(feeds, answers, strict=True)):
        np.testing.assert_array_equal(answer, np.full((len(feed["x"]), 3), 2 * number, np.float32))


def test_one_thread_runs_nothing_beside_the_caller(tiny: Model, tiny_data: Dataset) -> None:
    with open_runner(build_engine(tiny, options={"threads": 1})) as runner:
        assert isinstance(runner, AsyncRunner)
        with pytest.raises(EngineError, match=r"with 1 thread there are none.*threads to 2"):
            runner.submit(tiny_data.inputs)


def test_without_an_arena_the_answer_is_the_same(digits: Model, evaluation: Dataset) -> None:
    answers = []
    for arena in (True, False):
        with open_runner(build_engine(digits, options={"threads": 1, "arena": arena})) as runner:
            answers.append(runner.infer(evaluation.take(4).inputs)["logits"])

    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("provider", "given", "words"),
    [
        ("TensorrtExecutionProvider", ["trt_fp16_enable=1"], r"trt_fp16_enable changes what .*float16"),
        ("OpenVINOExecutionProvider", ["device_type=GPU", "precision=FP16"], r"precision changes what .*model says"),
        ("OpenVINOExecutionProvider", ["device_type=GPU_FP16"], r"device_type changes what"),
        ("OpenVINOExecutionProvider", ["load_config={}"], r"load_config changes what"),
        ("OpenVINOExecutionProvider", ["num_of_threads=2"], r"num_of_threads .*option threads"),
        ("CUDAExecutionProvider", ["user_compute_stream=1"], r"its own stream"),
        ("CUDAExecutionProvider", ["gpu_mem_limit"], r"'gpu_mem_limit' is no option.*gpu_mem_limit="),
        ("CUDAExecutionProvider", ["device_id=0", "device_id = 1"], r"device_id twice: 0 and 1"),
        ("CPUExecutionProvider", ["use_arena=0"], r"pass over use_arena"),
    ],
)
def test_an_option_that_a_provider_must_not_have_is_refused(provider: str, given: list[str], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        read_provider_options(provider, given)


def test_options_of_a_provider_are_checked_when_it_is_built_for(tiny: Model) -> None:
    with pytest.raises(OptionsError, match="pass over use_arena without a word"):
        build_engine(tiny, options={"provider_options": ["use_arena=0"]})


def test_plans_and_timings_of_tensorrt_are_kept_in_the_workspace(tiny: Model, default_workspace: Path) -> None:
    engine = replace(build_engine(tiny), device="TensorrtExecutionProvider")
    settings = provider_settings(engine, stream=7)

    assert Path(settings["trt_engine_cache_path"]).parent.parent == default_workspace
    assert Path(settings["trt_engine_cache_path"]).is_dir()
    assert settings["user_compute_stream"] == "7"
    assert not {"trt_fp16_enable", "trt_int8_enable", "trt_bf16_enable"} & set(settings)


def test_a_provider_that_is_not_there_is_known_before_the_build(tiny: Model) -> None:
    [found] = check_build(tiny, "onnxruntime", {"provider": "MadeUpExecutionProvider"})

    assert found.verdict == "refused"
    assert "has no MadeUpExecutionProvider: it knows" in found.what


@pytest.mark.parametrize(
    "provider", [name for name in onnxruntime.get_available_providers() if name != "CPUExecutionProvider"]
)
def test_what_is_checked_before_is_what_happens(tiny: Model, provider: str) -> None:
    [found] = check_build(tiny, "onnxruntime", {"provider": provider})
    try:
        with open_runner(build_engine(tiny, options={"provider": provider})) as runner:
            happened = "ok" if runner.placement[provider] else "refused"
    except ProviderError:
        happened = "refused"

    assert found.verdict == happened
    assert provider in found.what


def test_nothing_is_said_of_a_model_that_runs_as_it_is(digits: Model) -> None:
    assert check_build(digits, "onnxruntime") == ()


def test_an_opset_that_is_too_new_is_known_before_the_build(tmp_path: Path, tiny: Model) -> None:
    proto = onnx.load(tiny.path)
    proto.opset_import[0].version = 99
    tiny.path.write_bytes(proto.SerializeToString())
    [found] = check_build(replace(tiny, opset=99), "onnxruntime")

    assert found.verdict == "refused"
    assert re.search(r"tiny needs opset 99 of \S+; ONNX Runtime \S+ knows them up to \d+", found.what)
    assert "Export it with opset" in found.remedy


def test_fp8_is_known_to_be_opened_with_basic_optimizations(
    digits: Model, calibration: Dataset, workspace: Workspace
) -> None:
    model = transform(digits, "quantize_fp8", {"samples": 8}, dataset=calibration, workspace=workspace)
    [found] = check_build(model, "onnxruntime")

    assert found == BuildCheck("doubt", found.what, found.remedy)
    assert "opened with basic ones in place of all" in found.what
    assert build_engine(model).options["graph_level"] == "basic"
    assert check_build(model, "onnxruntime", {"graph_level": "basic"}) == ()


def test_a_provider_that_this_build_lacks_is_refused(tiny: Model) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        missing = "MadeUpExecutionProvider"
    else:
        missing = "CUDAExecutionProvider"
    with pytest.raises(ProviderError, match=rf"has no {missing}: it knows .*CPUExecutionProvider"):
        build_engine(tiny, options={"provider": missing})


@pytest.mark.parametrize(
    "provider", [name for name in onnxruntime.get_available_providers() if name != "CPUExecutionProvider"]
)
def test_a_provider_that_is_listed_runs_the_model_or_is_refused(tiny: Model, provider: str) -> None:
    """The plain build lists AzureExecutionProvider, and every node lands on the CPU."""
    engine = build_engine(tiny, options={"provider": provider})
    refusal = ""
    try:
        with open_runner(engine) as runner:
            assert runner.placement[provider] > 0
    except ProviderError as error:
        refusal = str(error)
    if provider == "AzureExecutionProvider" or refusal:
        fallen_back = rf"was to run on {provider}.*nodes on CPUExecutionProvider"
        assert re.search(rf"{fallen_back}|{provider} cannot be set up for tiny: ", refusal)


def test_openvinos_provider_computes_in_the_models_own_type_or_is_refused(digits: Model, evaluation: Dataset) -> None:
    """Its wheel, onnxruntime-openvino, excludes the one that is usually installed."""
    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ProviderError, match=r"has no OpenVINOExecutionProvider: it knows .*CPUExecutionProvider"):
            build_engine(digits, options={"provider": "OpenVINOExecutionProvider"})
        return
    feed = evaluation.take(8).inputs
    with open_runner(build_engine(digits)) as runner:
        expected = runner.infer(feed)["logits"]
    engine = build_engine(digits, options={"provider": "OpenVINOExecutionProvider", "threads": 1})
    with open_runner(engine) as runner:
        np.testing.assert_allclose(runner.infer(feed)["logits"], expected, rtol=1e-4, atol=1e-4)
        assert set(runner.placement) == {"OpenVINOExecutionProvider"}
    unknown = replace(engine, options={**engine.options, "provider_options": ["nosuch=1"]})
    with pytest.raises(ProviderError, match=r"cannot be set up .*nosuch"), open_runner(unknown):
        pass
    [layer] = profile_layers(engine, feed)
    assert (layer.operator, layer.provider) == ("20 nodes", engine.device)
    assert layer.ms is not None
    assert 0 < layer.ms < 100


def profile_layers(engine: Engine, feed: Tensors) -> tuple[Layer, ...]:
    layers: tuple[Layer, ...] = find_plugin("backends", engine.backend).profile(engine, feed, 0.1, silent).layers
    return layers


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_graph_optimization_does_not_change_the_answer(tiny: Model, tiny_data: Dataset, level: str) -> None:
    with open_runner(build_engine(tiny, options={"graph_level": level})) as runner:
        nodes = sum(runner.placement.values())
        np.testing.assert_array_equal(runner.infer(tiny_data.inputs)["scores"], 2 * tiny_data.inputs["x"][:, :3])
    assert nodes == (2 if level == "disabled" else nodes)


def test_an_unknown_option_is_refused_by_name(tiny: Model) -> None:
    with pytest.raises(OptionsError, match=r"onnxruntime has no option 'thread'. Did you mean 'threads'\?"):
        build_engine(tiny, options={"thread": 1})


def test_a_model_that_it_does_not_know_is_refused_in_words(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="of.nobody")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    engine = build_engine(load_model(tmp_path / "m.onnx"))

    words = r"Frobnicate of 'of\.nobody', which ONNX Runtime .* not have"
    with pytest.raises(ModelError, match=words), open_runner(engine):
        pass


def test_weights_in_other_files_are_found(
    tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_file(tmp_path / "m.onnx", external="m.data")
    monkeypatch.chdir(tmp_path)
    engine = build_engine(load_model("m.onnx"))
    monkeypatch.chdir("/")
    with open_runner(engine) as runner:
        np.testing.assert_array_equal(runner.infer(tiny_data.inputs)["scores"], 2 * tiny_data.inputs["x"][:, :3])


def test_it_reports_its_use_to_nobody(tmp_path: Path) -> None:
    """Its telemetry starts with a file of its own in the folder for temporary files."""
    code = """
from workbench import build_engine, load_model, open_runner
with open_runner(build_engine(load_model("sample:digits"))):
    pass
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], env={**environment, "TMPDIR": str(tmp_path)}, check=True)

    assert list(tmp_path.iterdir()) == []
