"""Made-up inputs, for timing where no samples are at hand."""

from __future__ import annotations

import dataclasses

import pytest

from workbench.engine import random_feed
from workbench.errors import ModelError
from workbench.model import Model, TensorSpec


def test_free_axes_get_a_size_and_the_same_seed_the_same_values(tiny: Model) -> None:
    spec = (TensorSpec("x", "float32", ("batch", "length", 4)), TensorSpec("ids", "int64", ("batch", 2)))
    model = dataclasses.replace(tiny, inputs=spec)
    feed = random_feed(model, 3)

    assert {name: (str(array.dtype), array.shape) for name, array in feed.items()} == {
        "x": ("float32", (3, 1, 4)),
        "ids": ("int64", (3, 2)),
    }
    assert all((random_feed(model, 3)[name] == array).all() for name, array in feed.items())


@pytest.mark.parametrize(
    "spec",
    [TensorSpec("x", "object", ("batch",)), TensorSpec("x", "sequence of float32", ()), TensorSpec("x", "int4", (2,))],
)
def test_what_is_no_tensor_of_numbers_is_asked_for(tiny: Model, spec: TensorSpec) -> None:
    with pytest.raises(ModelError, match=r"no random values can be made up\. Give samples instead"):
        random_feed(dataclasses.replace(tiny, inputs=(spec,)), 1)
