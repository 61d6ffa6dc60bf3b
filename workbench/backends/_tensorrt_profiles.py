"""Optimization profiles: which shapes the dynamic inputs of a plan may have, and which one it is made fastest for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from workbench.backends._tensorrt_options import Options
from workbench.errors import OptionsError
from workbench.model import Model, TensorSpec
from workbench.options import suggest

Shape: TypeAlias = tuple[int, ...]

_BOUNDS = ("smallest", "usual", "largest")
_LARGEST = 2**31 - 1  # TensorRT's own limit of an axis
# Sizes proposed for an axis by what its name tells.
_BY_NAME = (
    (re.compile(r"seq|len|time|token", re.IGNORECASE), (1, 128, 512)),
    (re.compile(r"height|width|^[hw]$", re.IGNORECASE), (32, 224, 512)),
)
_OTHER = (1, 16, 64)


@dataclass(frozen=True)
class OptimizationProfile:
    """The shapes that a plan is built for; a plan may have several profiles, of which a runner uses one at a time.

    Attributes:
        shapes: Smallest, usual and largest shape of each dynamic input, by its name; the usual is made fastest.
    """

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def __str__(self) -> str:
        """As the option `profiles` takes it."""
        return "; ".join(
            f"{name}: {' '.join('x'.join(map(str, shape)) for shape in bounds)}" for name, bounds in self.shapes.items()
        )

    def axes(self, model: Model) -> dict[str, int]:
        """Usual size of each dynamic axis that has a name."""
        return {
            axis: size
            for spec in dynamic_inputs(model)
            for axis, size in zip(spec.shape, self.shapes[spec.name][1], strict=True)
            if isinstance(axis, str)
        }


def dynamic_inputs(model: Model) -> tuple[TensorSpec, ...]:
    """The inputs with an axis whose size the model leaves open."""
    return tuple(spec for spec in model.inputs if any(isinstance(size, str) for size in spec.shape))


def only_batch_is_dynamic(model: Model) -> bool:
    """Whether no axis but the first of an input is left open."""
    return not any(isinstance(size, str) for spec in model.inputs for size in spec.shape[1:]) and not any(
        spec.shape == ("...",) for spec in model.inputs
    )


def propose_profile(model: Model, batch: int = 1, max_batch: int = 32) -> str:
    """Makes up a profile for any model with dynamic axes, to be looked over: sizes are guessed from names.

    Args:
        model: Any model.
        batch: Usual size of the batch.
        max_batch: Largest size of the batch.

    Returns:
        The profile as the option `profiles` takes it; empty where nothing is dynamic.
    """
    batches = (1, batch, max(batch, max_batch))
    shapes = {}
    for spec in dynamic_inputs(model):
        ranges = [_range(size, place, batches) for place, size in enumerate(spec.shape)]
        shapes[spec.name] = tuple(zip(*ranges, strict=True))
    return str(OptimizationProfile(shapes))  # type: ignore[arg-type] # three shapes each


def parse_profiles(model: Model, texts: Iterable[str]) -> tuple[OptimizationProfile, ...]:
    """Reads profiles as users write them, e.g. `image: 1x3x224x224 8x3x224x224 32x3x224x224; mask: 1x8 8x64 32x128`.

    Args:
        model: What they are for.
        texts: One profile each: smallest, usual and largest shape of each dynamic input.

    Raises:
        OptionsError: One cannot be read or does not fit the model; it says which, where and why.
    """
    return tuple(_parse(model, text, f"Profile {number}") for number, text in enumerate(texts, 1))


def resolve_profiles(model: Model, options: Options) -> tuple[OptimizationProfile, ...]:
    """The profiles to build with: those given, or one for the batch where nothing else is dynamic.

    Raises:
        OptionsError: A profile is wrong, one is needed and not given, or the options contradict each other.
    """
    if unknown := [spec.name for spec in model.inputs if spec.shape == ("...",)]:
        raise OptionsError(
            f"{model.name} does not say how many axes its input '{unknown[0]}' has.", "Export it with known axes."
        )
    if options.profiles:
        if (options.batch, options.max_batch) != (Options.batch, Options.max_batch):
            raise OptionsError(
                "Profiles and a batch are given: the profiles alone say what the batch is.",
                "Leave out 'batch' and 'max_batch', or 'profiles'.",
            )
        return parse_profiles(model, options.profiles)
    if not dynamic_inputs(model):
        return ()
    proposal = propose_profile(model, options.batch, options.max_batch)
    if only_batch_is_dynamic(model):
        return parse_profiles(model, [proposal])
    listed = "; ".join(map(str, dynamic_inputs(model)))
    raise OptionsError(
        f"{model.name} has other dynamic axes than the batch, and no profile says how large they are: {listed}.",
        f"Give one in 'profiles', e.g. '{proposal}'.",
    )


def _range(size: int | str, place: int, batches: Shape) -> Shape:
    """Smallest, usual and largest size of an axis."""
    if isinstance(size, int):
        return (size, size, size)
    if re.search("batch", size, re.IGNORECASE):
        return batches
    named = next((sizes for pattern, sizes in _BY_NAME if pattern.search(size)), None)
    return named or (batches if place == 0 else _OTHER)


def _parse(model: Model, text: str, where: str) -> OptimizationProfile:
    inputs = {spec.name: spec for spec in model.inputs}
    dynamic = dynamic_inputs(model)
    if not dynamic:
        raise OptionsError(f"{where} is for nothing: {model.name} has no dynamic axes.", "Leave 'profiles' out.")
    found: dict[str, tuple[Shape, Shape, Shape]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, shapes = (word.strip() for word in part.rpartition(":"))
        if not colon or not name:
            raise _unreadable(where, part)
        if name not in inputs:
            raise OptionsError(
                f"{where} names '{name}', which is no input of {model.name}.", suggest(name, sorted(inputs))
            )
        if name in found:
            raise OptionsError(f"{where} names '{name}' twice.", "Give each input once.")
        found[name] = _bounds(inputs[name], shapes.split(), f"{where}, {name}", part)
    if missing := [str(spec) for spec in dynamic if spec.name not in found]:
        raise OptionsError(
            f"{where} leaves out {', '.join(missing)}.", f"Give every dynamic input, e.g. '{propose_profile(model)}'."
        )
    _check_agreement(dynamic, found, where)
    return OptimizationProfile({name: found[name] for name in inputs if name in found})


def _bounds(spec: TensorSpec, shapes: Sequence[str], where: str, part: str) -> tuple[Shape, Shape, Shape]:
    if len(shapes) != len(_BOUNDS) or not all(re.fullmatch(r"\d+(x\d+)*", shape) for shape in shapes):
        raise _unreadable(where, part)
    smallest, usual, largest = (tuple(map(int, shape.split("x"))) for shape in shapes)
    for bound, shape in zip(_BOUNDS, (smallest, usual, largest), strict=True):
        if len(shape) != len(spec.shape):
            raise OptionsError(
                f"{where}: the {bound} shape has {len(shape)} axes, and the model's '{spec}' has {len(spec.shape)}.",
                "Give one size per axis.",
            )
        for place, (given, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
            if isinstance(wanted, int) and given != wanted:
                raise OptionsError(
                    f"{where}: axis {place} of the {bound} shape is {given}, and the model's is always {wanted}.",
                    f"Write {wanted} there.",
                )
            if given > _LARGEST or (given == 0 and bound != _BOUNDS[0]):
                raise OptionsError(
                    f"{where}: axis {place} of the {bound} shape is {given:,}.", f"It can be 1 to {_LARGEST:,}."
                )
    for place, sizes in enumerate(zip(smallest, usual, largest, strict=True)):
        if list(sizes) != sorted(sizes):
            raise OptionsError(
                f"{where}: axis {place} goes from {sizes[0]} by way of {sizes[1]} to {sizes[2]}.",
                "The smallest comes first, then the usual, then the largest.",
            )
    return smallest, usual, largest


def _check_agreement(
    dynamic: Iterable[TensorSpec], found: Mapping[str, tuple[Shape, Shape, Shape]], where: str
) -> None:
    """Axes of one name have one size in every input."""
    first: dict[str, tuple[str, Shape]] = {}
    for spec in dynamic:
        for axis, sizes in zip(spec.shape, zip(*found[spec.name], strict=True), strict=True):
            if not isinstance(axis, str) or axis == "?":
                continue
            other, expected = first.setdefault(axis, (spec.name, sizes))
            if sizes != expected:
                raise OptionsError(
                    f"{where}: the axis '{axis}' is {_spoken(expected)} in '{other}' and {_spoken(sizes)} in "
                    f"'{spec.name}', but it is one and the same.",
                    "Give it the same sizes in both.",
                )


def _spoken(sizes: Shape) -> str:
    return "/".join(map(str, sizes))


def _unreadable(where: str, part: str) -> OptionsError:
    return OptionsError(
        f"{where} cannot be read at '{part:.80}'.",
        "Write an input as 'name: smallest usual largest', e.g. 'image: 1x3x224x224 8x3x224x224 32x3x224x224'.",
    )
