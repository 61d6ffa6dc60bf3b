"""Inputs checked against what a model takes, for backends that would crash on others or compute nonsense."""

from __future__ import annotations

from workbench.engine import Tensors
from workbench.errors import ModelError
from workbench.model import Model


def check_feed(model: Model, feed: Tensors, runtime: str) -> None:
    """Compares names, element types and sizes.

    Args:
        model: What is to be run.
        feed: Its inputs.
        runtime: Name of the backend, for the message.

    Raises:
        ModelError: On the first thing that does not fit.
    """
    wanted = {spec.name: spec for spec in model.inputs}
    if feed.keys() != wanted.keys():
        raise _refusal(model, runtime, f"it takes {', '.join(wanted)} and was given {', '.join(feed) or 'nothing'}")
    for name, array in feed.items():
        spec = wanted[name]
        fits = spec.shape == ("...",) or (
            len(array.shape) == len(spec.shape)
            and all(size == want or isinstance(want, str) for size, want in zip(array.shape, spec.shape, strict=True))
        )
        if not fits or str(array.dtype) != spec.dtype:
            given = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
            raise _refusal(model, runtime, f"it takes {spec} and was given {given}")


def _refusal(model: Model, runtime: str, why: str) -> ModelError:
    return ModelError(
        f"{runtime} cannot run {model.name}: {why}.",
        "Check the inputs' types, shapes and values against what the model takes.",
    )
