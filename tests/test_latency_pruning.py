"""As few channels gone as bring a model to the time that it may take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.pruning.nets import Net
from workbench.dataset import Dataset
from workbench.errors import OptionsError
from workbench.importers import load_model
from workbench.latency_pruning import LatencyPruning, prune_to_latency
from workbench.model import Model
from workbench.workspace import Workspace

QUICK = {"seconds": 0.2, "launches": 1}
ONE_THREAD = {"threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    net = Net(("batch", 3, 64, 64))
    value, channels = "image", 3
    for _ in range(3):
        value, channels = net.add("Relu", net.conv(value, channels, 48, dead=False)), 48
    path = tmp_path_factory.mktemp("nets") / "net.onnx"
    onnx.save(net.model(net.add("GlobalAveragePool", net.conv(value, 48, 16))), path)
    return load_model(path)


@pytest.fixture(scope="module")
def samples() -> Dataset:
    return Dataset({"image": np.random.default_rng(0).random((4, 3, 64, 64), np.float32)})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("kept"))


def search(model: Model, samples: Dataset, target_ms: float, workspace: Workspace) -> LatencyPruning:
    return prune_to_latency(model, target_ms, samples, backend_options=ONE_THREAD, latency=QUICK, workspace=workspace)


@pytest.fixture(scope="module")
def unreachable(model: Model, samples: Dataset, kept: Workspace) -> LatencyPruning:
    return search(model, samples, 1e-6, kept)


@pytest.mark.heavy
def test_a_target_out_of_reach_is_told_with_the_fastest_there_is(unreachable: LatencyPruning) -> None:
    original, *_, last = unreachable.trials

    assert not unreachable.holds
    assert original.share == 0
    assert last.share == unreachable.share == 51  # 48 channels become 16: fewer do not fill a vector
    assert last.ms < original.ms  # a ninth of the work


@pytest.mark.heavy
def test_the_target_is_met_with_as_little_as_it_takes(
    model: Model, samples: Dataset, unreachable: LatencyPruning, kept: Workspace
) -> None:
    """Other work may slow any of the measurements down, so what is asked is that the choice follows from them."""
    target = 0.75 * unreachable.trials[0].ms
    result = search(model, samples, target, kept)
    too_slow = {trial.share for trial in result.trials if trial.ms > target}
    chosen = result.trials[-1]

    assert result.holds
    assert result.latency.p50 is not None
    assert (chosen.share, chosen.ms) == (result.share, result.latency.p50.value)
    assert chosen.ms <= target
    assert {share for share in (0, 17, 51) if share < result.share} <= too_slow
    if result.share:
        [step] = result.model.history
        assert step.options["recover"]


def test_what_is_fast_enough_stays_as_it_is(model: Model, samples: Dataset, kept: Workspace) -> None:
    result = search(model, samples, 1e6, kept)
    assert (result.model, result.share, result.holds) == (model, 0, True)


def test_what_cannot_be_asked_is_refused(model: Model, samples: Dataset, workspace: Workspace) -> None:
    with pytest.raises(OptionsError, match="cannot take 0 ms"):
        search(model, samples, 0, workspace)
    with pytest.raises(OptionsError, match="share is what pruning to a latency looks for"):
        prune_to_latency(model, 1, samples, {"share": 30}, workspace=workspace)
