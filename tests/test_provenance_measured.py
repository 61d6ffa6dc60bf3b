"""A package's recipe measures its numbers again if they were measured, with the options that the results tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loads import load_of, point_of, sweep_of
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import export_package
from workbench.measure.load import LoadStats
from workbench.measure.sweep import Sweep
from workbench.model import Model
from workbench.recipe import Recipe, read_recipe
from workbench.serving_measure import MeasureServingOptions, measure_serving
from workbench.serving_measurements import Measurements

DEFAULTS = MeasureServingOptions()
KEPT, LOST = load_of(100, 4.0), load_of(900, 40.0, kept_up=False, unfinished=60)


@pytest.fixture
def candidate(tiny: Model) -> Candidate:
    return Candidate("tiny", build_engine(tiny))


def recorded(candidate: Candidate, sample: Dataset, folder: Path, found: Measurements) -> Recipe:
    export_package(candidate, sample=sample, measured=found, directory=folder / "package")
    return read_recipe(folder / "package" / "provenance" / "recipe.json")


def measuring(recipe: Recipe) -> MeasureServingOptions:
    assert recipe.export is not None
    assert recipe.export.measure is not None
    return recipe.export.measure


@pytest.mark.heavy
def test_a_real_measurement_is_recorded_with_its_options(
    candidate: Candidate, tiny_data: Dataset, tmp_path: Path
) -> None:
    options = MeasureServingOptions(batches=(3,), seconds=0.35, steps=3, rounds=2)
    curve, swept = measure_serving(candidate.engine, tiny_data, options)
    wanted = measuring(recorded(candidate, tiny_data, tmp_path, Measurements(None, curve, swept)))

    assert wanted.batches == (3,)
    # What other work on this machine leaves to be told.
    assert wanted.seconds == 0.35 if any(stats.kept_up for stats in curve) else wanted.seconds >= 0.3
    assert wanted.steps == (3 if any(stats.kept_up for stats in curve[-2:]) else DEFAULTS.steps)
    assert wanted.rounds % 2 == 0 if any(point.confirmed for point in swept.points) else wanted.rounds == 3


def test_without_a_measurement_it_measures_nothing(candidate: Candidate, tiny_data: Dataset, tmp_path: Path) -> None:
    recipe = recorded(candidate, tiny_data, tmp_path, Measurements())
    assert recipe.export is not None
    assert recipe.export.measure is None


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        ((KEPT, KEPT, LOST), 3),
        ((KEPT, LOST, LOST), DEFAULTS.steps),  # it may have been meant to go on
        ((*[KEPT] * 9, LOST, LOST), 11),  # to more than the usual number, that is
        ((), DEFAULTS.steps),
    ],
)
def test_a_curve_that_ended_early_does_not_tell_its_steps(
    candidate: Candidate, tiny_data: Dataset, tmp_path: Path, curve: tuple[LoadStats, ...], steps: int
) -> None:
    found = Measurements(None, curve, sweep_of(point_of(1, 250, 4.0)))
    assert measuring(recorded(candidate, tiny_data, tmp_path, found)).steps == steps


@pytest.mark.parametrize(
    ("sweep", "rounds"),
    [
        (sweep_of(point_of(1, 250, 4.0)), DEFAULTS.rounds),
        (sweep_of(point_of(1, 250, 4.0, *[250] * 5), point_of(2, 240, 8.0, *[250] * 5)), 5),
        (sweep_of(point_of(1, 250, 4.0, *[250] * 4), point_of(2, 240, 8.0, *[250] * 2)), 2),
    ],
)
def test_rounds_are_told_by_what_was_measured_again(
    candidate: Candidate, tiny_data: Dataset, tmp_path: Path, sweep: Sweep, rounds: int
) -> None:
    found = Measurements(None, (KEPT, KEPT), sweep)
    assert measuring(recorded(candidate, tiny_data, tmp_path, found)).rounds == rounds


def test_seconds_are_told_by_arrivals_or_else_by_the_shortest_closed_loop(
    candidate: Candidate, tiny_data: Dataset, tmp_path: Path
) -> None:
    sweep = sweep_of(point_of(1, 250, 4.0, seconds=2.52), point_of(2, 250, 8.0, seconds=2.514))
    for number, (curve, seconds) in enumerate((((load_of(100, 4.0, completed=250),), 2.5), ((LOST, LOST), 2.5))):
        found = Measurements(None, curve, sweep)
        assert measuring(recorded(candidate, tiny_data, tmp_path / str(number), found)).seconds == seconds
