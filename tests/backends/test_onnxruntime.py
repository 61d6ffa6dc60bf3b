"""ONNX Runtime: what it is asked to do is what it does, or it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, open_runner
from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.model import Model


def test_an_engine_tells_what_decides_its_result(tiny: Model) -> None:
    engine = build_engine(tiny, options={"threads": 1})

    assert (engine.backend, engine.device, engine.path) == ("onnxruntime", "CPUExecutionProvider", tiny.path)
    assert engine.options == {
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "graph_level": "all",
        "spinning": True,
        "float_layers": "quantize",
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
        assert f"was to run on {provider}" in refusal
        assert "nodes on CPUExecutionProvider" in refusal


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
