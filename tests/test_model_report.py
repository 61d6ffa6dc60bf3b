"""A model in words, for the terminal and the panels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from workbench.conversion import Conversion, OutputCheck
from workbench.graph import diff_graphs, summarize_graph
from workbench.importers import load_model
from workbench.model import Model
from workbench.model_report import conversion_text, diff_text, model_text, support_text, totals
from workbench.report import format_bytes, format_count
from workbench.support import Unsupported


def test_a_model_is_told_with_its_interface_and_its_costs(digits: Model) -> None:
    text = model_text(digits, summarize_graph(digits, batch=4))

    assert text.startswith("digits_cnn: 0.88 MB, opset 17\n  in   image float32[batch, 1, 32, 32]")
    assert "Parameters: 217,626" in text
    assert "at batch 4" in text
    assert text.index("Conv ") < text.index("Gemm ") < text.index("Relu ")


def test_what_is_not_known_is_said(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    known = summarize_graph(load_model(model_file(tmp_path / "m.onnx")))
    unknown = dataclasses.replace(known, peak_activation_bytes=None, unknown_shapes=3)

    assert "Shapes not known" not in totals(known)
    assert totals(unknown)["Peak activation memory"] == "not known"
    assert totals(unknown)["Shapes not known"].startswith("3 nodes")


def test_a_conversion_is_told_with_its_figures_and_notes(digits: Model) -> None:
    check = OutputCheck("logits", 2.5e-6, 10.0, 0.9999999, 0.875)
    record = Conversion("Keras 3.15.1", (check,), 8, "random values", 1e-3, ("Images as NCHW.",))
    text = conversion_text(dataclasses.replace(digits, conversion=record))

    assert "Converted from Keras 3.15.1" in text
    assert "on 8 samples (random values)" in text
    assert "logits        2.5e-06       2.5e-07          0.9999999           87.5 %" in text
    assert text.endswith("Note: Images as NCHW.")
    assert conversion_text(digits) == ""


def test_what_a_backend_lacks_is_named_with_what_to_do() -> None:
    missing = Unsupported("of.nobody:Frobnicate", "it has no such operator.", ("a", "b", "c", "d", "e"), "Replace it.")

    assert support_text({"onnxruntime": ()}) == ""
    assert support_text({"onnxruntime": (missing,)}) == (
        "onnxruntime cannot run of.nobody:Frobnicate (a, b, c and 2 more): it has no such operator. Replace it."
    )


def test_two_models_are_compared_in_words(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    narrow = load_model(model_file(tmp_path / "narrow.onnx"))
    wide = load_model(model_file(tmp_path / "wide.onnx", wide=2))

    assert diff_text(diff_graphs(narrow, narrow)) == "narrow → narrow: nothing changed; 2 nodes the same"
    assert "narrow → wide: 2 changed; 0 nodes the same" in diff_text(diff_graphs(narrow, wide))


def test_counts_and_sizes_have_three_digits_and_a_unit() -> None:
    assert [format_count(number) for number in (None, 0, 999, 1000, 12_345, 217_626, 999_600, 36_012_345)] == [
        *("–", "0", "999", "1.00 k", "12.3 k", "218 k", "1.00 M", "36.0 M"),
    ]
    assert [format_bytes(number) for number in (12, 1234, 4_096_000_000)] == ["12 B", "1.23 kB", "4.10 GB"]
