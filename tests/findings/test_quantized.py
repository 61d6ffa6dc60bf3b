"""What makes a quantized model slow: each fault is found in the model that has it, and in no other."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.findings.conftest import FindMeasured
from workbench.findings import (
    Context,
    Finding,
    conversion_time,
    dynamic_convolutions,
    float_layers,
    int8_not_faster,
    low_int8_coverage,
    precision_transitions,
    signed_activations,
    unasked_int8,
    unfused_qdq,
)

HEALTHY = ("original", "unsigned")


def found(rule: object, context: Context) -> list[Finding]:
    return list(rule.find(context))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize(
    "rule",
    [
        conversion_time,
        dynamic_convolutions,
        float_layers,
        low_int8_coverage,
        precision_transitions,
        signed_activations,
        unasked_int8,
        unfused_qdq,
    ],
    ids=lambda rule: rule.__name__.rpartition(".")[2],
)
def test_a_healthy_model_has_no_finding(rule: object, name: str, quantized: Mapping[str, Context]) -> None:
    assert found(rule, quantized[name]) == []


def test_signed_activations_are_measured_against_unsigned_ones(
    quantized: Mapping[str, Context], find_measured: FindMeasured
) -> None:
    [finding] = find_measured(signed_activations, quantized["signed"])

    assert "signed int8 (21 tensors)" in finding.what
    assert "with unsigned activations, measured in turns" in finding.evidence
    assert finding.milliseconds is not None
    assert 0 < finding.milliseconds < 10 * quantized["signed"].row.p50_ms  # which was measured at another time
    assert finding.step == {
        "name": "signed, int8 static",
        "transforms": ["quantize_static"],
        "backend": "onnxruntime",
        "options": {"threads": 1},
    }
    assert found(signed_activations, quantized["dynamic"]) == []


def test_pairs_that_do_not_fuse_are_named(quantized: Mapping[str, Context]) -> None:
    """Symmetric ranges keep every Relu, and with it a pair on each side."""
    [finding] = found(unfused_qdq, quantized["signed"])

    assert "widen/relu/out_QuantizeLinear" in finding.nodes
    assert not {"image_QuantizeLinear", "logits_DequantizeLinear"} & set(finding.nodes)  # these have to be there
    assert finding.milliseconds is not None
    assert found(unfused_qdq, quantized["partly"]) == []  # these lie around layers that are float on purpose


def test_a_convolution_quantized_for_nothing_is_found(quantized: Mapping[str, Context]) -> None:
    [finding] = found(low_int8_coverage, quantized["signed"])
    coverage = low_int8_coverage.int8_coverage(quantized["signed"])

    assert finding.nodes == ("residual/first/conv",)
    assert (coverage.integer, coverage.products) == (8, 9)
    assert coverage.integer_macs + coverage.missed_macs == coverage.macs == quantized["signed"].graph.macs
    assert found(low_int8_coverage, quantized["partly"]) == []  # nobody meant to quantize what is float there


def test_layers_left_in_float_are_named_with_their_share(quantized: Mapping[str, Context]) -> None:
    [finding] = found(float_layers, quantized["partly"])

    assert {"residual/first/conv", "residual/second/conv"} <= set(finding.nodes)
    assert "residual/first/conv" in finding.evidence
    assert finding.milliseconds is not None
    assert 0.2 < finding.milliseconds / quantized["partly"].total_ms < 1


def test_a_single_layer_kept_in_float_is_quantized_all_the_same(quantized: Mapping[str, Context]) -> None:
    [finding] = found(unasked_int8, quantized["single"])

    assert finding.nodes == ("residual/first/conv",)
    assert finding.step is not None
    assert "float_layers" not in finding.step["options"]  # it is kept unless asked otherwise
    assert found(unasked_int8, quantized["kept"]) == found(unasked_int8, quantized["partly"]) == []
    assert found(float_layers, quantized["single"]) == []


def test_dynamic_convolutions_are_measured_against_static_ones(
    quantized: Mapping[str, Context], find_measured: FindMeasured
) -> None:
    [finding] = find_measured(dynamic_convolutions, quantized["dynamic"])

    assert finding.what.startswith("8 convolutions")
    assert "quantized statically, measured in turns" in finding.evidence
    assert finding.step is not None
    assert finding.step["transforms"] == ["quantize_static"]


def test_time_for_conversions_is_added_up(quantized: Mapping[str, Context]) -> None:
    [finding] = found(conversion_time, quantized["signed"])

    assert "DequantizeLinear, QuantizeLinear" in finding.evidence.replace(
        "QuantizeLinear, DequantizeLinear", "DequantizeLinear, QuantizeLinear"
    )
    assert finding.milliseconds is not None
    assert finding.milliseconds >= 0.1 * quantized["signed"].total_ms


def test_transitions_between_precisions_are_counted(quantized: Mapping[str, Context]) -> None:
    [finding] = found(precision_transitions, quantized["signed"])
    matrix = {
        (entry.source, entry.target): entry
        for entry in precision_transitions.precision_transitions(quantized["signed"])
    }

    assert matrix["float32", "int8"].count == matrix["int8", "float32"].count == 7
    assert matrix["int8", "float32"].bytes > 0 < matrix["int8", "float32"].ms
    assert "14 times" in finding.what
    [same] = precision_transitions.precision_transitions(quantized["unsigned"])
    assert (same.source, same.target) == ("int8", "int8")


def test_the_verdict_names_what_weighs_most(quantized: Mapping[str, Context]) -> None:
    dynamic = quantized["dynamic"]
    reasons = found(dynamic_convolutions, dynamic)
    [verdict] = int8_not_faster.sum_up(dynamic, reasons)

    assert verdict.what == "INT8 is slower than the original, because 8 convolutions are quantized dynamically."
    assert verdict.step == reasons[0].step
    assert verdict.milliseconds == pytest.approx(dynamic.row.p50_ms - dynamic.original.p50_ms)
    assert list(int8_not_faster.sum_up(quantized["unsigned"], [])) == []
