"""PyTorch: the graph itself and modules of the user's own, eager and compiled, and what it says of them."""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, check_build, open_runner
from workbench.backends._pytorch_build import try_engine
from workbench.backends._pytorch_module import imports_restored, open_module
from workbench.dataset import Dataset
from workbench.engine import Engine, random_feed, unheard
from workbench.errors import MissingDependencyError, ModelError, OptionsError, ProviderError
from workbench.importers import load_model
from workbench.jobs import silent
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.transforms import transform
from workbench.workspace import ROOT_VARIABLE, Workspace

torch = pytest.importorskip("torch")

NETS = """
import torch

class Doubling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return {"scores": torch.relu(self.layer(x)) * 2}

class Stopping(Doubling):
    def forward(self, x):
        made = torch.relu(self.layer(x))
        print(end="")
        return made * 2

class Twice(Doubling):
    def forward(self, x):
        return self.layer(x), x

def fails():
    raise ValueError("no such net")

number = lambda: 3
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A module of the user's own, and weights with which it is the tiny model."""
    weight = torch.zeros(3, 4)
    weight[[0, 1, 2], [0, 1, 2]] = 1
    torch.save({"layer.weight": weight, "layer.bias": torch.zeros(3)}, tmp_path / "weights.pth")
    torch.save({"layer.weight": weight + 1, "layer.bias": torch.zeros(3)}, tmp_path / "others.pth")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


@pytest.fixture
def twelve(tiny_data: Dataset) -> dict[str, np.ndarray]:
    return dict(tiny_data.inputs)


def _with(engine: Engine, **options: object) -> Engine:
    return dataclasses.replace(engine, options={**engine.options, **options})


def test_an_engine_tells_what_decides_its_result(tiny: Model) -> None:
    engine = build_engine(tiny, "pytorch", {"threads": 1})

    assert (engine.backend, engine.device, engine.path) == ("pytorch", "cpu", tiny.path)
    assert engine.versions == {"torch": version("torch")}
    assert engine.options["threads"] == 1
    assert build_engine(tiny, "pytorch").options["threads"] >= 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_answers_like_onnx_runtime(digits: Model, evaluation: Dataset, channels_last: bool) -> None:
    feed = evaluation.take(8).inputs
    with open_runner(build_engine(digits)) as runner:
        expected = runner.infer(feed)["logits"]
    with open_runner(build_engine(digits, "pytorch", {"channels_last": channels_last})) as runner:
        np.testing.assert_allclose(runner.infer(feed)["logits"], expected, rtol=1e-4, atol=1e-4)
        assert runner.placement == {"cpu (eager)": 28}


@pytest.mark.parametrize("name", ["quantize_static", "float16"])
def test_transformed_models_run_too(
    digits: Model, calibration: Dataset, evaluation: Dataset, shared_workspace: Workspace, name: str
) -> None:
    model = transform(digits, name, dataset=calibration, workspace=shared_workspace)
    feed = evaluation.take(32).inputs
    with open_runner(build_engine(model, options={"float_layers": "keep"})) as runner:
        expected = runner.infer(feed)["logits"]
    with open_runner(build_engine(model, "pytorch")) as runner:
        given = runner.infer(feed)["logits"]

    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()
    np.testing.assert_array_equal(given.argmax(1), expected.argmax(1))


def test_threads_are_its_own_only_while_it_is_open(tiny: Model, twelve: dict[str, np.ndarray]) -> None:
    before = torch.get_num_threads()
    with open_runner(build_engine(tiny, "pytorch", {"threads": before + 1})) as runner:
        runner.infer(twelve)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_profile_is_of_the_graphs_nodes(digits: Model) -> None:
    engine = build_engine(digits, "pytorch", {"threads": 1})
    layers = find_plugin("backends", "pytorch").optimized(engine).layers

    assert layers[0].sources == ("stem/conv",)
    assert (layers[0].operator, layers[0].precision) == ("Conv", "float32")
    with pytest.raises(OptionsError, match="no layers of a compiled graph"):
        find_plugin("backends", "pytorch").optimized(_with(engine, mode="compile"))


def test_unknown_operators_are_named_before_and_when_it_is_built(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Swirl", ["x"], ["a"], "first", domain="my.company"),
        helper.make_node("Relu", ["a"], ["y"], "plain"),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])] for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.company", 1)]
    graph = helper.make_graph(nodes, "g", *ends)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "custom.onnx")
    model = load_model(tmp_path / "custom.onnx")

    with pytest.raises(ModelError, match=r"my.company:Swirl \(first\)"):
        build_engine(model, "pytorch")
    [check] = check_build(model, "pytorch")
    assert (check.verdict, "Swirl" in check.what) == ("refused", True)
    [problem] = find_plugin("backends", "pytorch").unsupported(model)
    assert problem.nodes == ("first",)


def test_a_gpu_that_is_not_there_is_refused(tiny: Model) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match=r"finds no cuda here: it finds cpu"):
        build_engine(tiny, "pytorch", {"device": "cuda"})


def test_a_module_of_the_users_own_is_run_with_its_weights(
    tiny: Model, nets: Path, twelve: dict[str, np.ndarray], tmp_path: Path
) -> None:
    heard: list[str] = []
    mine = {"factory": f"{nets}:Doubling", "weights": str(tmp_path / "weights.pth")}
    engine = build_engine(tiny, "pytorch", mine, log=heard.append)
    stranger = sys.modules["nets"] = type(sys)("nets")
    path = list(sys.path)
    try:
        with open_runner(engine) as runner:
            given = runner.infer(twelve)
            placement = runner.placement
        assert sys.modules["nets"] is stranger
        assert sys.path == path
    finally:
        del sys.modules["nets"]

    np.testing.assert_allclose(given["scores"], 2 * twelve["x"][:, :3], atol=1e-6)
    assert placement == {"cpu (eager)": 1}
    assert heard == ["Its answers to random inputs differ from those of ONNX by 0 % of their range."]
    assert set(engine.versions) == {"torch", "factory", "weights"}


@pytest.mark.parametrize(
    ("factory", "weights", "error", "words"),
    [
        ("nets.py:Doubling", "others.pth", ModelError, "The module computes something else than tiny says"),
        ("nets.py:Twice", "weights.pth", ModelError, "returns 2 tensors where the model has 1 outputs"),
        ("nets.py:fails", "", OptionsError, "fails: ValueError: no such net"),
        ("nets.py:number", "", OptionsError, r"gives a int, not a torch.nn.Module"),
        ("nets.py:Doubling", "absent.pth", OptionsError, "absent.pth, which does not exist"),
    ],
)
def test_modules_that_do_not_fit_are_refused_in_words(
    tiny: Model, nets: Path, tmp_path: Path, factory: str, weights: str, error: type[Exception], words: str
) -> None:
    """As the build's subprocess does it, without the time that one takes to import PyTorch."""
    mine = {"factory": str(tmp_path / factory), "weights": str(tmp_path / weights) if weights else ""}
    engine = _with(build_engine(tiny, "pytorch", {"threads": torch.get_num_threads()}), **mine)

    with imports_restored(), pytest.raises(error, match=words):
        try_engine(engine, silent, unheard)


def test_weights_alone_are_refused(tiny: Model) -> None:
    with pytest.raises(OptionsError, match="without the module"):
        build_engine(tiny, "pytorch", {"weights": "weights.pth"})


def test_weights_that_run_code_are_not_read(tiny: Model, tmp_path: Path, nets: Path) -> None:
    torch.save({"layer.weight": os.system}, tmp_path / "bad.pth")
    mine = {"factory": f"{nets}:Doubling", "weights": str(tmp_path / "bad.pth")}
    with imports_restored(), pytest.raises(ModelError, match="more than tensors"):
        open_module(_with(build_engine(tiny, "pytorch"), **mine))


def test_without_a_compiler_it_says_so(tiny: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    assert [check.verdict for check in check_build(tiny, "pytorch", {"mode": "compile"})] == ["refused"]
    with pytest.raises(MissingDependencyError, match="no compiler"):
        build_engine(tiny, "pytorch", {"mode": "compile"})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace for what takes long to compile."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.heavy
def test_a_compiled_graph_answers_the_same_and_is_kept(
    tiny: Model, twelve: dict[str, np.ndarray], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(kept))
    heard: list[str] = []
    engine = build_engine(tiny, "pytorch", {"mode": "compile"}, log=heard.append)
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with open_runner(engine) as runner:
        given = runner.infer({"x": twelve["x"][:1]})
        placement = runner.placement

    np.testing.assert_allclose(given["scores"], 2 * twelve["x"][:1, :3], atol=1e-6)
    assert placement == {"cpu (compiled)": 2}
    assert any("Compiling for a batch of 1 took" in line for line in heard)
    assert any((kept / "torch-compile").iterdir())
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before


@pytest.mark.heavy
def test_where_the_compiler_gives_up_the_placement_says_so(
    tiny: Model, nets: Path, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(kept))
    heard: list[str] = []
    mine = {"factory": f"{nets}:Stopping", "weights": str(tmp_path / "weights.pth"), "mode": "compile"}
    with open_runner(build_engine(tiny, "pytorch", mine, log=heard.append)) as runner:
        runner.infer(random_feed(tiny, 1))
        assert runner.placement["cpu (eager)"] == 1
    assert any(line.startswith("Not compiled: ") for line in heard)
