"""What fills the machine badly: threads, batch, channels, weights taken away; in models built for it, not in others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.findings.conftest import ONE_THREAD, TRIES, Again, Explained, FindMeasured
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.findings import Context, no_effect, small_batch, too_many_threads, unaligned_channels
from workbench.findings.trials import aligned_pruning
from workbench.measure.profile import profile_layers
from workbench.model import Model
from workbench.transforms import transform
from workbench.workspace import Workspace

Writer = Callable[..., Model]


@pytest.fixture(scope="module")
def layers(convolutions: Writer, in_context: Explained) -> Mapping[str, Context]:
    """One convolution of 64 channels; with fewer of them, and with four weights in five set to zero."""
    models = {
        "original": convolutions("original", (64, 64)),
        "zeros": convolutions("zeros", (64, 64), zeros=0.8),
        "narrower": convolutions("narrower", (36, 50)),
        "half": convolutions("half", (32, 64)),
    }
    return in_context({name: build_engine(model, options=ONE_THREAD) for name, model in models.items()})


def with_engine(context: Context, engine: Engine) -> Context:
    """The context of another model, for rules that measure it themselves."""
    row = dataclasses.replace(context.row, candidate=Candidate("original", engine))
    return dataclasses.replace(context, row=row, original=row)


def test_channels_that_do_not_fill_vectors_are_measured_against_those_that_do(
    layers: Mapping[str, Context], find_measured: FindMeasured
) -> None:
    [finding] = find_measured(unaligned_channels, layers["narrower"])

    assert finding.nodes == ("conv 0",)
    assert "with 36 → 50 channels" in finding.evidence
    assert "with 32 → 48, measured in turns" in finding.evidence
    assert finding.milliseconds is not None
    assert 0 < finding.milliseconds < 10 * layers["narrower"].row.p50_ms  # which was measured at another time
    assert list(unaligned_channels.find(layers["original"])) == []


def test_zero_weights_gain_nothing(layers: Mapping[str, Context], again: Again) -> None:
    [finding] = next(filter(None, (list(no_effect.find(measured["zeros"])) for measured in again(layers))), [])

    assert finding.what.startswith("80 % of the weights are zero")
    assert finding.milliseconds is not None
    assert 0 < finding.milliseconds < 10 * layers["zeros"].row.p50_ms


def test_channels_taken_away_must_show_in_the_time(layers: Mapping[str, Context], again: Again) -> None:
    [finding] = next(filter(None, (list(no_effect.find(measured["narrower"])) for measured in again(layers))), [])

    assert finding.what.startswith("56 % of the multiply-accumulates are gone")
    assert "promises 2.28 ×" in finding.evidence
    assert any(list(no_effect.find(measured["half"])) == [] for measured in again(layers))
    assert list(no_effect.find(layers["original"])) == []


def test_zeros_and_odd_counts_lead_to_whole_channels(
    digits: Model, calibration: Dataset, layers: Mapping[str, Context], shared_workspace: Workspace
) -> None:
    def proposed(name: str, **options: Any) -> Any:
        made = transform(digits, name, options, dataset=calibration, workspace=shared_workspace)
        first, second = (Candidate("it", build_engine(model)) for model in (digits, made))
        context = with_engine(layers["original"], first.engine)
        row = dataclasses.replace(context.row, candidate=second)
        return aligned_pruning(dataclasses.replace(context, row=row))

    assert proposed("sparsify", share=60.0)["transforms"] == ["prune_channels"]
    odd = proposed("prune_channels", align=1, share=20.0, recover=False)
    assert odd["transforms"] == [{"prune_channels": {"share": 20.0, "recover": False}}]
    assert proposed("prune_channels", share=20.0, recover=False) is None


def test_threads_that_only_wait_are_found(
    convolutions: Writer, layers: Mapping[str, Context], find_measured: FindMeasured
) -> None:
    engine = build_engine(convolutions("tiny", [16] * 40, size=6), options={"threads": 8})
    context = with_threads(with_engine(layers["original"], engine), 8)
    profile = profile_layers(engine, {"seconds": 0.2}, workspace=context.workspace)
    [finding] = find_measured(too_many_threads, dataclasses.replace(context, profile=profile))

    assert finding.what == "8 threads are more than the work keeps busy."
    assert "measured in turns" in finding.evidence
    assert finding.step is not None
    assert finding.step["name"] in ("original, 1 thread", "original, 4 threads")
    assert finding.step["transforms"] == []


def test_threads_with_work_for_each_are_not_even_tried(layers: Mapping[str, Context]) -> None:
    assert too_many_threads.typical_layer_ms(layers["original"]) > 0.2
    assert list(too_many_threads.find(with_threads(layers["original"], 2))) == []
    assert list(too_many_threads.find(layers["original"])) == []  # it has one


def with_threads(context: Context, threads: int) -> Context:
    """The context of what runs on so many threads."""
    latency = dataclasses.replace(context.row.latency, threads=threads)
    return dataclasses.replace(context, row=dataclasses.replace(context.row, latency=latency))


def test_a_batch_that_costs_hardly_more_is_too_small(
    products: Writer, layers: Mapping[str, Context], find_measured: FindMeasured, tmp_path: Path
) -> None:
    """A matrix that meets one sample is read from memory for it alone; a convolution has work enough."""
    engine = build_engine(products("wide", width=512, depth=4), options=ONE_THREAD)
    [finding] = find_measured(small_batch, with_engine(layers["original"], engine))

    assert finding.what.startswith("A batch of 1 does not fill the device: 4 give ")
    assert "batch 4 takes" in finding.evidence
    # The two batches are not measured in turns, so other work can make one look too small, but not every time.
    places = (Workspace(tmp_path / f"again {number}") for number in range(TRIES))
    others = (dataclasses.replace(layers["original"], workspace=place) for place in places)
    assert any(list(small_batch.find(context)) == [] for context in others)


def test_a_fixed_batch_cannot_be_larger(layers: Mapping[str, Context]) -> None:
    engine = layers["original"].row.candidate.engine
    spec = dataclasses.replace(engine.model.inputs[0], shape=(1, 64, 32, 32))
    fixed = dataclasses.replace(engine, model=dataclasses.replace(engine.model, inputs=(spec,)))

    assert list(small_batch.find(with_engine(layers["original"], fixed))) == []
