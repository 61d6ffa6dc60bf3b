"""The check behind every conversion: a model that computes something else is refused, with where it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from workbench.conversion import Conversion
from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ConversionError
from workbench.importers._source import Source
from workbench.importers._verify import compare_output, verify
from workbench.jobs import silent
from workbench.model import read_model

WHOLE = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 4] x) => (float[batch, 4] left, float[batch, 4] sum)
    <float[4] scale = {1, 2, 3, 4}, float[4] shift = {5, 6, 7, 8}>
    { [double] scaled = Mul (x, scale)
      [move] moved = Add (x, shift)
      [rectify] left = Relu (scaled)
      [bend] bent = Tanh (moved)
      [join] sum = Add (left, bent) }"""


class Original(Source):
    """The same in NumPy, as a framework would run it."""

    framework = "NumPy 2"

    def __init__(self, samples: Dataset | None = None, noise: float = 0.0) -> None:
        super().__init__(samples)
        self.noise = np.random.default_rng(0) if noise else None
        self.fed: list[Tensors] = []

    def infer(self, feed: Tensors) -> Sequence[NDArray[Any]]:
        self.fed.append(feed)
        values = self.values(feed, ("left", "sum"))
        noise = self.noise.random() if self.noise else 0.0
        return [values["left"], np.float32(values["sum"] + noise)]

    def value_names(self) -> Sequence[str]:
        return ("scaled", "moved", "left", "bent", "sum")

    def values(self, feed: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        x = feed["x"]
        scaled = x * np.float32([1, 2, 3, 4])
        moved = x + np.float32([5, 6, 7, 8])
        left, bent = np.maximum(scaled, 0), np.tanh(moved)
        known = {"scaled": scaled, "moved": moved, "left": left, "bent": bent, "sum": left + bent}
        return {name: known[name] for name in names}


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Conversion]:
    """Compares the original with the ONNX model after a change to its text."""

    def compare(source: Source, was: str = "", now: str = "", tolerance: float = 1e-3) -> Conversion:
        assert was in WHOLE
        onnx.save(onnx.parser.parse_model(WHOLE.replace(was, now)), tmp_path / "m.onnx")
        return verify(source, read_model(tmp_path / "m.onnx"), tolerance, silent)

    return compare


def test_a_faithful_model_passes_and_the_record_says_how_near_it_is(check: Callable[..., Conversion]) -> None:
    conversion = check(Original())

    assert [kept.output for kept in conversion.checks] == ["left", "sum"]
    assert all(kept.max_abs_error < 1e-6 < kept.range for kept in conversion.checks)
    assert (conversion.framework, conversion.samples, conversion.inputs) == ("NumPy 2", 3, "random values")


@pytest.mark.parametrize(
    ("was", "now", "node"),
    [
        ("{1, 2, 3, 4}", "{1, 2, 3, 5}", r"'double' \(Mul\)"),  # a weight
        ("{5, 6, 7, 8}", "{5, 6, 0, 8}", r"'move' \(Add\)"),  # one of a branch that runs beside a sound one
        ("Relu (scaled)", "Abs (scaled)", r"'rectify' \(Abs\)"),  # an operator; only negative inputs show it
        ("Tanh (moved)", "Sigmoid (moved)", r"'bend' \(Sigmoid\)"),
        ("Add (left, bent)", "Sub (left, bent)", r"'join' \(Sub\)"),
    ],
)
def test_a_model_that_computes_something_else_is_refused_with_the_first_node_that_differs(
    was: str, now: str, node: str, check: Callable[..., Conversion]
) -> None:
    with pytest.raises(ConversionError, match=rf"output '(left|sum)' differs .*The first node that differs is {node}"):
        check(Original(), was, now)


def test_a_nan_on_one_side_alone_is_a_difference(check: Callable[..., Conversion]) -> None:
    with pytest.raises(ConversionError, match="differs by up to inf"):
        check(Original(), "Relu (scaled)", "Log (scaled)")
    assert compare_output("y", np.array([np.nan, 1.0]), np.array([np.nan, 1.0])).max_abs_error == 0
    assert compare_output("y", np.array([np.inf, 1.0]), np.array([-np.inf, 1.0])).max_abs_error == np.inf


def test_what_is_good_enough_is_the_users_choice(check: Callable[..., Conversion]) -> None:
    change = ("{1, 2, 3, 4}", "{1, 2, 3, 4.004}")

    check(Original(), *change, tolerance=1e-2)
    with pytest.raises(ConversionError, match=r"allowed 0\.0001 of the range"):
        check(Original(), *change, tolerance=1e-4)


def test_an_original_that_is_random_is_named_as_such(check: Callable[..., Conversion]) -> None:
    with pytest.raises(ConversionError, match=r"'sum' differs by .* between two runs"):
        check(Original(noise=1.0))


def test_a_batch_that_the_conversion_has_fixed_shows(check: Callable[..., Conversion]) -> None:
    with pytest.raises(ConversionError, match=r"Output 'sum' has shape \(1, 4\) where the original gives \(3, 4\)"):
        check(
            Original(), "[join] sum = Add (left, bent)", "full = Add (left, bent)  sum = ReduceMean <axes=[0]> (full)"
        )


def test_samples_are_what_both_run_on(check: Callable[..., Conversion]) -> None:
    samples = Dataset({"x": np.float32(np.arange(80).reshape(20, 4))}, name="counts")
    original = Original(samples)

    conversion = check(original)

    assert (conversion.samples, conversion.inputs) == (8, "counts")
    np.testing.assert_array_equal(original.fed[0]["x"], samples.inputs["x"][:8])


def test_fewer_samples_than_a_fixed_batch_are_repeated(check: Callable[..., Conversion]) -> None:
    samples = Dataset({"x": np.ones((2, 4), np.float32)})

    assert check(Original(samples), "batch, 4] x", "5, 4] x").samples == 5


def test_sizes_that_only_the_original_knows_are_taken_from_it(check: Callable[..., Conversion]) -> None:
    original = Original()
    original.example = {"x": np.ones((7, 4), np.float32)}

    assert check(original).samples == 7
