"""PyTorch: modules in memory, weights with a factory, .pt2 programs and TorchScript become faithful ONNX models."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from workbench.errors import ConversionError, ModelError
from workbench.importers import load_model
from workbench.importers._verify import run_onnx, verify
from workbench.importers.pytorch import Options, open_object, open_source
from workbench.jobs import silent
from workbench.model import Model, read_model
from workbench.torch_files import call_factory
from workbench.workspace import Workspace

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """A convolution with batch norm and dropout, an optional second input, nested outputs, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, image: Any, bias: Any = None) -> dict[str, Any]:
        print("called")
        self.calls += 1
        relu = torch.relu(self.norm(self.conv(image)))
        scores = self.head(self.drop(relu.mean((2, 3))))
        if bias is not None:
            scores = scores + bias
        return {"relu": scores.relu(), "pair": (scores, scores), "image": image, "nothing": None, "count": 3}


class Branching(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            return x + 1
        return x


class Unwritable(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x).abs()


class Pairs(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return x.reshape(2, 4) * 2


FACTORY = """
import torch

class Body(torch.nn.Sequential):
    pass

def build(classes=3):
    return Body(torch.nn.Embedding(20, 6), torch.nn.Flatten(), torch.nn.Linear(24, classes))
"""


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    net = Net()
    net.head.eval()  # the caller's own mixture of modes
    return net


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def converted(net: Any, said: io.StringIO, shared_workspace: Workspace) -> Model:
    samples = (torch.randn(2, 3, 8, 10), torch.randn(2, 5))
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return load_model(
            net,
            {"inputs": ["image float32[batch, 3, height, 10]", "bias float32[batch, 5]"]},
            samples=samples,
            workspace=shared_workspace,
        )


# --- a module in memory --------------------------------------------------------------------------------------------


def test_a_module_computes_the_same_as_onnx(converted: Model) -> None:
    assert converted.name == "Net"
    assert converted.source == "pytorch"
    assert converted.conversion
    assert converted.conversion.framework.startswith("PyTorch 2")
    assert converted.conversion.samples == 2
    assert all(check.max_abs_error < 1e-5 for check in converted.conversion.checks)


def test_inputs_and_outputs_have_the_names_that_the_code_gives_them(converted: Model) -> None:
    assert [str(spec) for spec in converted.inputs] == [
        "image float32[batch, 3, height, 10]",
        "bias float32[batch, 5]",
    ]
    assert [str(spec) for spec in converted.outputs] == [
        "relu float32[batch, 5]",
        "pair_0 float32[batch, 5]",
        "pair_1 float32[batch, 5]",
        "image_out float32[batch, 3, height, 10]",
    ]


def test_free_axes_take_other_sizes(converted: Model, net: Any) -> None:
    image, bias = torch.randn(7, 3, 12, 10), torch.randn(7, 5)
    twin = Net().eval()
    twin.load_state_dict(net.state_dict())

    [scores] = run_onnx(converted.path, {"image": image.numpy(), "bias": bias.numpy()}, ["pair_0"])

    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        expected = twin(image, bias)["pair"][0].numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_callers_module_stays_as_it_was(converted: Model, net: Any) -> None:
    modes = {name: part.training for name, part in net.named_modules()}

    assert modes == {"": True, "conv": True, "norm": True, "drop": True, "head": False}
    assert net.calls.item() == 0
    assert net.norm.num_batches_tracked.item() == 0
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_nothing_is_printed_into_the_notebook(converted: Model, said: io.StringIO) -> None:
    assert said.getvalue() == ""


def test_the_file_tells_layers_but_not_whose_machine_it_was_made_on(converted: Model) -> None:
    content = converted.path.read_bytes()
    [conv] = [node for node in onnx.load(converted.path).graph.node if node.op_type == "Conv"]
    properties = {entry.key: entry.value for entry in conv.metadata_props}

    assert b"stack_trace" not in content
    assert str(Path(__file__).parent).encode() not in content
    assert b"site-packages" not in content
    assert properties["pkg.torch.onnx.name_scopes"].startswith("['', 'norm'")  # the convolution absorbs its batch norm
    assert {tensor.name for tensor in onnx.load(converted.path).graph.initializer} >= {"head.weight", "head.bias"}


def test_the_first_wrong_node_of_a_wrong_conversion_is_named(tmp_path: Path) -> None:
    module = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), bend=nn.Tanh(), last=nn.Linear(4, 2)))
    source = open_object(module, Options(), torch.randn(3, 4))
    source.write_onnx(tmp_path / "m.onnx", silent)
    proto = onnx.load(tmp_path / "m.onnx")
    [bend] = [node for node in proto.graph.node if node.op_type == "Tanh"]
    verify(source, read_model(tmp_path / "m.onnx"), 1e-3, silent)

    bend.op_type = "Sigmoid"
    onnx.save(proto, tmp_path / "wrong.onnx")

    with pytest.raises(ConversionError, match=rf"first node that differs is '{bend.name}' \(Sigmoid\)"):
        verify(source, read_model(tmp_path / "wrong.onnx"), 1e-3, silent)


def test_a_batch_that_the_module_fixes_stays_fixed_and_is_told(tmp_path: Path) -> None:
    source = open_object(Pairs(), Options(), torch.randn(2, 4))
    source.write_onnx(tmp_path / "m.onnx", silent)

    assert str(read_model(tmp_path / "m.onnx").inputs[0]) == "x float32[2, 4]"
    assert ["The batch is fixed at 2" in note for note in source.notes] == [True]


# --- errors in words -----------------------------------------------------------------------------------------------


def test_code_that_decides_by_values_is_named_with_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ConversionError, match=r"Branching decides .*\(`if x\.sum\(\) > 0:` in test_pytorch\.py, line \d+\)"
    ) as caught:
        open_object(Branching(), Options(), torch.randn(2, 4)).write_onnx(tmp_path / "m.onnx", silent)
    assert "torch.where" in caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"Unwritable uses aten\.linalg_eig\w*, which cannot be written"):
        open_object(Unwritable(), Options(), torch.randn(2, 3, 3)).write_onnx(tmp_path / "m.onnx", silent)


def test_inputs_that_do_not_fit_are_refused_with_their_shapes(tmp_path: Path) -> None:
    source = open_object(nn.Linear(4, 2), Options(), torch.randn(2, 5))
    with pytest.raises(ConversionError, match=r"Linear does not run on input \[2, 5\]: mat1 and mat2 shapes"):
        source.write_onnx(tmp_path / "m.onnx", silent)


def test_without_samples_and_descriptions_the_error_asks_for_them() -> None:
    with pytest.raises(ModelError, match="Net does not say what it takes") as caught:
        load_model(Net())
    assert 'options={"inputs": ["image float32[batch, 3, 224, 224]"]}' in caught.value.remedy


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def test_weights_with_a_factory_load_from_a_training_checkpoint(factory: Path, workspace: Workspace) -> None:
    module = call_factory(f"{factory}:build", '{"classes": 4}')
    weights = {f"module.{name}": value for name, value in module.state_dict().items()}
    path = factory.parent / "epoch3.pth"
    torch.save({"model": weights, "optimizer": torch.optim.Adam(module.parameters()).state_dict(), "epoch": 3}, path)
    ids = np.random.default_rng(0).integers(0, 20, (12, 4))

    model = load_model(
        path,
        {"factory": f"{factory}:build", "arguments": '{"classes": 4}'},
        samples={"tokens": ids},
        workspace=workspace,
    )

    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "tokens int64[batch, 4]",
        "output float32[batch, 4]",
    ]
    assert model.conversion
    assert model.conversion.notes == (
        "The weights are those under 'model' in the file.",
        "The names of the weights begin with 'module.', which was left out.",
    )
    [scores] = run_onnx(model.path, {"tokens": ids}, ["output"])
    np.testing.assert_allclose(scores, module.eval()(torch.from_numpy(ids)).detach().numpy(), atol=1e-5)


def test_safetensors_hold_the_same_weights(factory: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    module = call_factory(f"{factory}:build", "")
    save_file(module.state_dict(), factory.parent / "w.safetensors")
    options = Options(factory=f"{factory}:build", inputs=("tokens int64[batch, 4]",))

    source = open_source(factory.parent / "w.safetensors", options, None, False)

    [scores] = source.infer({"tokens": np.zeros((1, 4), np.int64)})
    np.testing.assert_array_equal(scores, module.eval()(torch.zeros(1, 4, dtype=torch.int64)).detach().numpy())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_converted_with_trust(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 2), nn.ReLU()).eval()
    torch.jit.trace(module, torch.zeros(1, 4)).save(tmp_path / "m.pt")
    source = open_source(tmp_path / "m.pt", Options(inputs=("x float32[batch, 4]",)), None, True)
    source.write_onnx(tmp_path / "m.onnx", silent)

    model = read_model(tmp_path / "m.onnx")
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "x float32[batch, 4]",
        "output float32[batch, 2]",
    ]
    verify(source, model, 1e-3, silent)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_says_itself_what_it_takes(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    source = open_source(tmp_path / "m.pt2", Options(), None, True)
    source.write_onnx(tmp_path / "m.onnx", silent)

    model = read_model(tmp_path / "m.onnx")
    assert str(model.inputs[0]) == "input float32[batch, 4]"
    verify(source, model, 1e-3, silent)
