"""TensorRT: real plans for GPUs that are not here, their layers, and what comes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.tensorrt_models import attention, build_here, is_product, quantized
from workbench.artifact import LOG, Manifest, read_manifest
from workbench.backends import build_engine, open_runner
from workbench.backends._tensorrt_listener import Listener
from workbench.backends._tensorrt_package import find_package
from workbench.engine import Layer
from workbench.errors import EngineError, ProviderError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.measure.profile import profile_layers
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.workspace import Workspace

pytest.importorskip("tensorrt_rtx")
plugin = find_plugin("backends", "tensorrt")
without_gpu = pytest.mark.skipif(bool(plugin.devices()), reason="there is a GPU here")


def build_layers(model: Model, folder: Path, **options: Any) -> tuple[Layer, ...]:
    return build_here(model, folder, targets=("SM89",), **options).layers.layers


def test_a_plan_is_built_once_for_a_gpu_that_is_not_here(digits: Model) -> None:
    engine = build_engine(digits, "tensorrt", {"targets": ["SM89"]})

    assert (engine.backend, engine.device) == ("tensorrt", "SM89")
    assert engine.options["targets"] == ["SM89"]
    assert (engine.options["package"], engine.options["timing_cache"]) == ("tensorrt_rtx", False)  # what it came to
    assert set(engine.versions) == {"tensorrt_rtx"}
    assert engine.path.stat().st_size > digits.size_bytes / 2
    written = engine.path.stat().st_mtime_ns
    assert build_engine(digits, "tensorrt", {"targets": ["SM89"]}) == engine
    assert engine.path.stat().st_mtime_ns == written
    assert build_engine(digits, "tensorrt", {"targets": ["SM120"]}).path != engine.path


def test_the_package_is_known_by_what_it_has() -> None:
    package = find_package("tensorrt_rtx")

    assert (package.name, package.version) == ("tensorrt_rtx", package.module.__version__)
    assert [package.targets, package.runtime_cache, package.refit, package.weight_streaming] == [True] * 4
    # It has these by name, but they do nothing.
    assert [package.timing_cache, package.optimization_level, package.hardware_compatibility] == [False] * 3
    assert package.network_flags() == 0


@without_gpu
def test_without_a_target_and_a_gpu_it_is_built_for_ada(tiny: Model) -> None:
    engine = build_engine(tiny, "tensorrt")

    assert (engine.device, engine.options["targets"]) == ("SM89", ["SM89"])


def test_several_targets_share_a_plan(digits: Model) -> None:
    engine = build_engine(digits, "tensorrt", {"targets": ["SM80", "SM89", "SM120", "SM80"]})

    assert engine.device == "SM80+SM89+SM120"
    assert engine.options["targets"] == ["SM80", "SM89", "SM120"]
    assert "Number of target compute capabilities: 3" in (engine.path.parent / LOG).read_text()


def test_its_layers_tell_what_was_fused(digits: Model, workspace: Workspace) -> None:
    profile = profile_layers(build_engine(digits, "tensorrt", {"targets": ["SM89"]}), workspace=workspace)

    groups = [entry.nodes for entry in profile.layers]
    assert ("stem/conv", "stem/norm", "stem/relu") in groups
    assert ("residual/second/conv", "residual/second/norm", "residual/add", "residual/relu") in groups
    assert {name for nodes in groups for name in nodes} == {node.name for node in summarize_graph(digits).nodes}
    assert {entry.layer.precision for entry in profile.layers} == {"float32"}
    assert profile.layers[0].layer.kind == "reformat"
    assert profile.layers[0].nodes == ()
    # Nothing was run.
    assert (profile.sum_ms, profile.whole_ms, profile.plain_ms, profile.iterations) == (None, None, None, 0)
    assert profile.node_ms == {}


def test_precision_is_the_models(tmp_path: Path) -> None:
    layers = build_layers(quantized(tmp_path / "quantized.onnx", np.int8(0)), tmp_path)
    [conv] = [layer for layer in layers if "conv" in layer.sources and layer.operator == "correlation"]
    quantizing = next(layer for layer in layers if layer.kind == "quantize")

    assert (conv.precision, conv.output_precision) == ("int8", "float32")
    assert (quantizing.precision, quantizing.output_precision) == ("float32", "int8")


def test_sizes_are_those_at_the_usual_batch(digits: Model, tmp_path: Path) -> None:
    """Of each layer that is one node of the model or ends with it, the size is that of the model's tensor."""
    layers = build_layers(digits, tmp_path, batch=4, max_batch=8)
    single = {layer.sources[-1]: layer.output_bytes for layer in layers if len(layer.sources) == 3}
    wanted = {node.name: node.activation_bytes for node in summarize_graph(digits, batch=4).nodes}

    assert len(single) >= 5
    assert single == {name: wanted[name] for name in single}
    assert layers[0].output_bytes == 4 * 32 * 32 * 4


def test_an_axis_that_several_were_merged_into_is_not_taken_for_the_batch(tmp_path: Path) -> None:
    """The log has -1 for batch × heads as well."""
    layers = build_layers(attention(tmp_path / "attention.onnx"), tmp_path, batch=4)
    told = {layer.sources: layer.output_bytes for layer in layers}

    assert told[("softmax",)] == 4 * 4 * 16 * 16 * 4
    assert told[("scores",)] is None


def test_memory_follows_from_the_largest_shapes(digits: Model, tmp_path: Path) -> None:
    small, large = (build_here(digits, tmp_path, targets=("SM89",), max_batch=size).layers.memory for size in (32, 256))

    assert small["weights"] == large["weights"] == pytest.approx(digits.size_bytes, rel=0.05)
    assert large["activations"] > small["activations"] > 0


def test_layers_of_the_first_profile_are_told(tmp_path: Path) -> None:
    model = quantized(tmp_path / "quantized.onnx", np.int8(0))
    first = "x: 1x16x8x8 8x16x8x8 32x16x8x8"
    one = build_layers(model, tmp_path, profiles=(first,))
    both = build_layers(model, tmp_path, profiles=(first, "x: 1x16x8x8 1x16x8x8 1x16x8x8"))

    assert [(layer.name, layer.output_bytes) for layer in both] == [(layer.name, layer.output_bytes) for layer in one]


def test_the_build_is_told_live_and_kept(digits: Model) -> None:
    lines: list[str] = []
    texts: set[str] = set()
    engine = build_engine(
        digits,
        "tensorrt",
        {"targets": ["SM86"]},
        log=lines.append,
        progress=lambda share, text: texts.add(text),
    )
    log = (engine.path.parent / LOG).read_text()
    manifest = read_manifest(engine.path.parent)

    assert "parsing the model" in texts
    assert "building for SM86 · building engine from subgraph" in texts
    assert any(line.startswith("Total Weights Memory") for line in lines)
    assert not any("cudaError" in line for line in lines)
    assert "VERBOSE Layers:" in log
    assert all(line in log for line in lines)
    assert {"parsing", "building", "Building engine from subgraph"} <= set(manifest.phases)
    assert 0 < manifest.phases["parsing"] < manifest.phases["building"] < manifest.seconds


def test_a_log_that_grows_too_long_is_cut_but_for_what_matters() -> None:
    stream, told = StringIO(), list[str]()
    listener = Listener(stream, told.append, silent, "building")
    for _ in range(30):
        listener.say("VERBOSE", "x" * 1_000_000)
    listener.say("VERBOSE", "Layers:\n")
    listener.say("ERROR", "IBuilder::build: Error Code 1: Myelin ([a.cpp:1: run] It broke. In f at /_src/a.cpp:2)")

    assert 18e6 < len(stream.getvalue()) < 22e6
    assert stream.getvalue().count("verbose lines are left out") == 1
    assert told == ["error: It broke"]
    assert (listener.reason(), listener.kept) == ("It broke", ["Layers:\n"])


def test_a_plan_can_stream_its_weights(tiny: Model) -> None:
    engine = build_engine(tiny, "tensorrt", {"weight_streaming": True, "weight_budget_mb": 0})

    assert engine.options["weight_streaming"] is True


@without_gpu
def test_no_runner_without_a_gpu(tiny: Model) -> None:
    assert plugin.devices() == ()
    with pytest.raises(ProviderError, match=r"TensorRT-RTX .* cannot run tiny here: there is no NVIDIA GPU, or no dri"):
        open_runner(build_engine(tiny, "tensorrt")).__enter__()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_plan_that_is_damaged_is_refused_in_words_and_built_again(tiny: Model, damage: str) -> None:
    engine = build_engine(tiny, "tensorrt")
    whole = engine.path.stat().st_size
    engine.path.unlink() if damage == "gone" else engine.path.write_bytes(engine.path.read_bytes()[: whole // 2])

    for use in (plugin.optimized, plugin.open_runner):
        with pytest.raises(EngineError, match=r"The engine of tiny cannot be used: .*(gone|bytes in place of)"):
            use(engine)
    assert build_engine(tiny, "tensorrt") == engine
    assert engine.path.stat().st_size == pytest.approx(whole, rel=0.01)
    assert plugin.optimized(engine).layers


def manifest_of(model: Model) -> Manifest:
    return read_manifest(build_engine(model, "tensorrt", {"targets": ["SM89"]}).path.parent)


@without_gpu
def test_what_another_package_built_is_built_anew_by_the_one_that_is_here(tiny: Model) -> None:
    manifest = manifest_of(tiny)
    elsewhere = replace(manifest, versions={"tensorrt": "11.4.0"}, options={**manifest.options, "package": "tensorrt"})

    assert plugin.misfit(manifest) is None
    found = plugin.misfit(elsewhere)
    assert found.reason == "it was built with tensorrt 11.4.0, which is not installed here"
    assert plugin.build(tiny, plugin.Options(), silent).device == "SM89"
    assert build_engine(tiny, "tensorrt", found.options).versions == manifest.versions


@pytest.mark.heavy
def test_a_large_net_in_four_precisions(tmp_path: Path, workspace: Workspace) -> None:
    from benchmarks._nets import resnet50
    from workbench.dataset import Dataset
    from workbench.transforms import transform

    model = load_model(resnet50(tmp_path / "resnet50.onnx"))
    images = np.random.default_rng(0).standard_normal((4, 3, 224, 224), np.float32)
    dataset = Dataset({"image": images})
    plans: dict[str, Callable[[], Model]] = {
        "float32": lambda: model,
        "float16": lambda: transform(model, "float16", workspace=workspace),
        "int8": lambda: transform(
            model, "quantize_static", {"target": "tensorrt", "samples": 4}, dataset=dataset, workspace=workspace
        ),
        "float8": lambda: transform(model, "quantize_fp8", {"samples": 4}, dataset=dataset, workspace=workspace),
    }
    sizes = {}
    for precision, make in plans.items():
        engine = build_engine(make(), "tensorrt", {"targets": ["SM89", "SM120"]})
        products = [layer for layer in plugin.optimized(engine).layers if is_product(layer)]
        assert len(products) == 54
        # A first convolution of three channels stays in float between FP8 Q/DQ nodes.
        assert Counter(layer.precision for layer in products)[precision] >= (53 if precision == "float8" else 54)
        sizes[precision] = engine.path.stat().st_size
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert max(sizes["int8"], sizes["float8"]) < 0.4 * sizes["float32"]
