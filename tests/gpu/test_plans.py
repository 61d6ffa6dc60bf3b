"""Plans of TensorRT and TensorRT-RTX on a GPU: answers, profiles, threads, CUDA graphs, times, refusals."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.artifact import MANIFEST, read_manifest
from workbench.backends import open_runner
from workbench.backends._cuda import Cuda, Gpu, PinnedBuffer
from workbench.backends._tensorrt_options import Target
from workbench.backends._tensorrt_plan import refit_plan
from workbench.backends._tensorrt_runner import BoundCall, PlanRunner, open_plan
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.errors import EngineError, ModelError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import Workspace, write_json

pytestmark = pytest.mark.gpu

Build = Callable[..., Engine]

# Ratio of signal to error, dB, that each precision must reach against ONNX's interpreter in float32. On processors INT8
# reached 33 to 37; TF32, which TensorRT may take for float32, has 10 bits of fraction, as float16 has.
LEAST = {"float32": 55, "float16": 45, "int8": 25, "fp8": 18}


@pytest.fixture(scope="session", params=LEAST)
def precise(
    request: pytest.FixtureRequest, digits: Model, calibration: Dataset, shared_workspace: Workspace, gpu: Gpu
) -> tuple[str, Model]:
    """The bundled model in each precision."""
    name: str = request.param
    if name == "fp8" and int(gpu.capability[2:]) < 89:
        pytest.skip(f"{gpu} has no FP8")
    ways = {
        "float16": ("float16", {}),
        "int8": ("quantize_static", {"target": "tensorrt"}),
        "fp8": ("quantize_fp8", {}),
    }
    if name == "float32":
        return name, digits
    step, options = ways[name]
    return name, transform(digits, step, options, dataset=calibration, workspace=shared_workspace)


def decibels(wanted: np.ndarray, given: np.ndarray) -> float:
    """Ratio of signal to error."""
    error = np.square(given.astype(np.float64) - wanted).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / max(error, 1e-30)))


def test_it_answers_as_the_standard_says(
    build: Build, precise: tuple[str, Model], samples: np.ndarray, reference: np.ndarray
) -> None:
    name, model = precise
    with open_runner(build(model)) as runner:
        whole = runner.infer({"image": samples})["logits"]
        parts = np.concatenate([runner.infer({"image": samples[i : i + 1]})["logits"] for i in range(len(samples))])
        bound = dict(runner.bind({"image": samples})())  # type: ignore[call-overload]

    assert whole.dtype == np.float32
    for given in (whole, parts, bound["logits"]):
        assert decibels(reference, given) > LEAST[name]
        assert (given.argmax(1) == reference.argmax(1)).mean() > 0.9


def test_it_says_where_it_runs(build: Build, digits: Model, gpu: Gpu) -> None:
    engine = build(digits)
    with open_plan(engine) as runner:
        assert [*runner.placement] == [f"{engine.device} ({gpu.name})"]
        assert engine.device in find_plugin("backends", "tensorrt").devices()


def test_of_several_profiles_the_one_that_fits_is_taken(
    build: Build, digits: Model, samples: np.ndarray, reference: np.ndarray
) -> None:
    few, many = "image: 1x1x32x32 1x1x32x32 4x1x32x32", "image: 8x1x32x32 16x1x32x32 32x1x32x32"
    with open_runner(build(digits, profiles=(few, many))) as runner:
        for batch in (1, 16, 4, 8, 2, 16):
            given = runner.infer({"image": samples[:batch]})["logits"]
            assert decibels(reference[:batch], given) > LEAST["float32"]
        with pytest.raises(ModelError, match=r"'image' is 6×1×32×32, allowed are 1–4×1×32×32 or 8–32×1×32×32"):
            runner.infer({"image": samples[:6]})
        with pytest.raises(ModelError, match="allowed are"):
            runner.bind({"image": samples[:5]})


@pytest.mark.parametrize("bad", [np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.int64)])
def test_inputs_that_do_not_fit_are_refused_in_words(build: Build, digits: Model, bad: np.ndarray) -> None:
    with open_runner(build(digits)) as runner, pytest.raises(ModelError, match="cannot run digits_cnn: "):
        runner.infer({"image": bad})


def test_any_order_of_memory_is_taken(build: Build, digits: Model, samples: np.ndarray) -> None:
    frozen = samples.copy()
    frozen.flags.writeable = False
    with open_runner(build(digits)) as runner:
        wanted = runner.infer({"image": samples})["logits"]
        for given in (frozen, np.asfortranarray(samples), np.repeat(samples, 2, axis=3)[..., ::2]):
            np.testing.assert_allclose(runner.infer({"image": given})["logits"], wanted, rtol=1e-5, atol=1e-5)
        turned = runner.infer({"image": samples[::-1]})["logits"]
        np.testing.assert_allclose(turned, wanted[::-1], rtol=1e-3, atol=1e-3)


def test_callers_side_by_side_get_their_own_answers(build: Build, tiny: Model) -> None:
    feeds = [{"x": np.full((1 + number % 3, 4), number, np.float32)} for number in range(400)]
    with open_runner(build(tiny)) as runner, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(runner.infer, feeds))

    for number, (feed, answer) in enumerate(zip(feeds, answers, strict=True)):
        np.testing.assert_allclose(answer["scores"], np.full((len(feed["x"]), 3), 2 * number), rtol=2e-3)


def test_a_graph_is_captured_while_others_run(build: Build, tiny: Model) -> None:
    ended = threading.Event()
    with open_plan(build(tiny)) as runner, ThreadPoolExecutor(1) as pool:

        def run() -> None:
            while not ended.is_set():
                runner.infer({"x": np.ones((3, 4), np.float32)})

        other = pool.submit(run)
        try:
            for number in range(20):
                given = runner.bind({"x": np.full((2, 4), number, np.float32)})()
                np.testing.assert_allclose(given["scores"], 2 * number, rtol=2e-3)
        finally:
            ended.set()
        other.result()


def test_cuda_graphs_change_no_answer(build: Build, package: str, digits: Model, samples: np.ndarray) -> None:
    answers = {}
    for graphs in (True, False):
        with open_plan(build(digits, cuda_graphs=graphs)) as runner:
            call = runner.bind({"image": samples[:4]})
            answers[graphs] = [call()["logits"].copy() for _ in range(5)]
            runner.infer({"image": samples[:7]})  # other shapes in between
            answers[graphs].append(call()["logits"].copy())
            # RTX makes its own, which nobody sees.
            assert call.has_graph == (graphs and package == "tensorrt")

    for given in answers[True] + answers[False]:
        np.testing.assert_array_equal(given, answers[True][0])


def test_a_bound_call_refuses_once_the_runner_is_closed(build: Build, tiny: Model) -> None:
    with open_runner(build(tiny)) as runner:
        call = runner.bind({"x": np.ones((1, 4), np.float32)})
        outputs = call()
    with pytest.raises(EngineError, match="The runner of tiny is closed"):
        call()
    np.testing.assert_allclose(outputs["scores"], 2, rtol=2e-3)  # type: ignore[index]


def test_the_device_takes_no_longer_than_the_host_waits(build: Build, digits: Model, samples: np.ndarray) -> None:
    with open_plan(build(digits)) as runner:
        call = runner.bind({"image": samples})
        assert isinstance(call, BoundCall)
        pairs = []
        for _ in range(200):
            begun = time.perf_counter()
            call()
            pairs.append(((time.perf_counter() - begun) * 1000, runner.device_timer(call)))

    host, device = np.median(pairs, axis=0)
    assert 0 < device <= host


def test_times_of_layers_add_up_to_about_the_whole(build: Build, digits: Model, samples: np.ndarray) -> None:
    plugin = find_plugin("backends", "tensorrt")
    found = plugin.profile(build(digits), {"image": samples}, 0.5, silent)

    assert found.iterations > 10
    assert all(layer.name and layer.operator for layer in found.layers)
    total = sum(layer.ms or 0.0 for layer in found.layers)
    assert 0.2 * found.whole_ms < total < 1.05 * found.whole_ms
    assert {"weights", "activations"} <= set(found.memory)


def test_memory_does_not_grow(build: Build, digits: Model, samples: np.ndarray) -> None:
    with open_plan(build(digits)) as runner, Cuda() as cuda:
        for batch in (16, 1):
            runner.infer({"image": samples[:batch]})
        before = cuda.api.free_bytes()
        for number in range(300):
            runner.infer({"image": samples[: 1 + number % 16]})
        assert before - cuda.api.free_bytes() < 2**21


def test_memory_comes_back(build: Build, digits: Model, samples: np.ndarray) -> None:
    engine = build(digits)
    left = []
    with Cuda() as cuda:
        for _ in range(4):
            with open_plan(engine) as runner:
                runner.infer({"image": samples})
                runner.bind({"image": samples})()
            del runner
            gc.collect()
            left.append(cuda.api.free_bytes())
    assert left[1] - left[-1] < 2**21  # the first loads what CUDA keeps


def test_pinned_memory_lives_as_long_as_a_view_of_it() -> None:
    with Cuda() as cuda:
        buffer = PinnedBuffer(cuda)
        small = buffer.view((2, 2), np.dtype(np.float32))
        small[:] = 3
        large = buffer.view((1000, 1000), np.dtype(np.float32))
        large[:] = 4
        del buffer
        gc.collect()
        assert (small == 3).all()
        assert (large == 4).all()


def reforge(engine: Engine, content: bytes) -> None:
    """Writes other content into a plan, and a manifest that fits it: only TensorRT itself can tell."""
    engine.path.write_bytes(content)
    manifest = read_manifest(engine.path.parent)
    digest = hashlib.sha256(content).hexdigest()
    told = dataclasses.replace(manifest, sha256=digest, size_bytes=len(content))
    write_json(engine.path.parent / MANIFEST, told)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_plan_that_was_cut_short_is_refused_in_words(build: Build, tiny: Model, share: float) -> None:
    engine = build(tiny)
    content = engine.path.read_bytes()
    engine.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(EngineError, match="bytes in place of"), open_plan(engine):
        pass
    reforge(engine, content[: int(len(content) * share)])
    with pytest.raises(EngineError, match=r"The engine of tiny .+\. Build the engine again"), open_plan(engine):
        pass


def test_a_plan_for_another_gpu_is_refused_in_words(build: Build, package: str, tiny: Model, gpu: Gpu) -> None:
    if package == "tensorrt":
        pytest.skip("TensorRT builds for the GPU that is here only")
    other = next(target for target in reversed(get_args(Target)) if target != gpu.capability)
    engine = build(tiny, targets=(other,))
    with pytest.raises(EngineError, match=f"was built for {other}, and the GPU here is .+{gpu.capability}"):
        open_plan(engine).__enter__()
    # What is written of it is wrong: TensorRT-RTX itself must see it.
    manifest = dataclasses.replace(read_manifest(engine.path.parent), device=gpu.capability)
    write_json(engine.path.parent / MANIFEST, manifest)
    with pytest.raises(EngineError, match="The engine of tiny"):
        open_plan(engine).__enter__()


def save(path: Path, nodes: list, inputs: list, outputs: list, tensors: list | None = None) -> Model:
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors or [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def test_outputs_may_be_as_large_as_the_values_decide(build: Build, tmp_path: Path) -> None:
    tensor = helper.make_tensor_value_info
    nodes = [helper.make_node("NonZero", ["x"], ["where"], "find")]
    model = save(
        tmp_path / "found.onnx",
        nodes,
        [tensor("x", TensorProto.FLOAT, [3, 40])],
        [tensor("where", TensorProto.INT64, [2, "count"])],
    )
    with open_plan(build(model)) as runner:
        assert isinstance(runner, PlanRunner)
        for count in (0, 1, 120, 7):
            values = np.zeros(120, np.float32)
            values[:count] = 1
            values = values.reshape(3, 40)
            given = runner.infer({"x": values})["where"]
            assert given.dtype == np.int64
            np.testing.assert_array_equal(given, np.nonzero(values))
            np.testing.assert_array_equal(runner.bind({"x": values})()["where"], np.nonzero(values))


def test_element_types_come_and_go_as_they_are(build: Build, tmp_path: Path) -> None:
    import ml_dtypes

    kinds = {
        "i": (TensorProto.INT64, np.dtype(np.int64)),
        "h": (TensorProto.FLOAT16, np.dtype(np.float16)),
        "b": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    }
    tensor = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", [name, name], [f"{name}{name}"], f"double_{name}") for name in kinds]
    nodes.append(helper.make_node("Greater", ["i", "one"], ["more"], "compare"))
    model = save(
        tmp_path / "types.onnx",
        nodes,
        [tensor(name, kind, ["batch", 4]) for name, (kind, _) in kinds.items()],
        [
            *(tensor(name * 2, kind, ["batch", 4]) for name, (kind, _) in kinds.items()),
            tensor("more", TensorProto.BOOL, ["batch", 4]),
        ],
        [numpy_helper.from_array(np.int64(1), "one")],
    )
    feed = {name: np.arange(8).reshape(2, 4).astype(kind) for name, (_, kind) in kinds.items()}
    with open_runner(build(model)) as runner:
        given = runner.infer(feed)

    for name, (_, kind) in kinds.items():
        assert given[name * 2].dtype == kind
        np.testing.assert_array_equal(given[name * 2].astype(float), 2.0 * np.arange(8).reshape(2, 4))
    assert given["more"].dtype == np.bool_
    np.testing.assert_array_equal(given["more"], np.arange(8).reshape(2, 4) > 1)


def test_a_plan_takes_new_weights(build: Build, package: str, tmp_path: Path, model_file: Callable[..., Path]) -> None:
    engine = build(load_model(model_file(tmp_path / "old.onnx")), refittable=True)
    proto = onnx.load(tmp_path / "old.onnx")
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(weight), "weight"))
    onnx.save(proto, tmp_path / "new.onnx")
    refit_plan(engine.path, tmp_path / "new.onnx", tmp_path / "new.plan", package)  # type: ignore[arg-type]
    reforge(engine, (tmp_path / "new.plan").read_bytes())
    with open_runner(engine) as runner:
        given = runner.infer({"x": np.ones((2, 4), np.float32)})["scores"]

    np.testing.assert_allclose(given, 6, rtol=2e-3)
    with pytest.raises(EngineError, match="takes no new weights"):
        refit_plan(build(load_model(tmp_path / "new.onnx")).path, tmp_path / "new.onnx", tmp_path / "x.plan", package)  # type: ignore[arg-type]
    assert not (tmp_path / "x.plan").exists()


def test_weights_may_stay_with_the_host(
    build: Build, digits: Model, samples: np.ndarray, reference: np.ndarray
) -> None:
    with open_runner(build(digits, weight_streaming=True)) as runner:
        assert decibels(reference, runner.infer({"image": samples})["logits"]) > LEAST["float32"]
        bound = runner.bind({"image": samples})
        assert decibels(reference, dict(bound())["logits"]) > LEAST["float32"]  # type: ignore[call-overload]
