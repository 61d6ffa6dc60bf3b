"""OpenVINO's own choice of precision: found where it was not asked for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.findings.conftest import ONE_THREAD, Explained
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.engine import Engine
from workbench.findings import Context, openvino_bf16
from workbench.measure.environment import read_environment
from workbench.model import Model

pytest.importorskip("openvino")
HAS_BF16 = {"avx512_bf16", "amx_bf16"} & set(read_environment().instructions)


@pytest.fixture(scope="module")
def contexts(digits: Model, evaluation: Dataset, in_context: Explained) -> Mapping[str, Context]:
    def made(precision: str) -> Engine:
        return build_engine(digits, "openvino", {**ONE_THREAD, "precision": precision})

    return in_context({"original": made("auto"), "float32": made("float32")}, evaluation)


def test_bfloat16_that_nobody_asked_for_is_found(contexts: Mapping[str, Context]) -> None:
    findings = list(openvino_bf16.find(contexts["original"]))
    if not HAS_BF16:  # then OpenVINO computes in float32 by itself
        assert findings == []
        return
    [finding] = findings

    assert "in bfloat16, which nobody asked for" in finding.what
    assert "in float32, measured in turns" in finding.evidence
    assert "The outputs differ from float32's by up to 0.0" in finding.evidence
    assert finding.step == {
        "name": "original, float32",
        "transforms": [],
        "backend": "openvino",
        "options": {"threads": 1, "precision": "float32"},
    }


def test_float32_is_no_finding(contexts: Mapping[str, Context]) -> None:
    assert list(openvino_bf16.find(contexts["float32"])) == []
