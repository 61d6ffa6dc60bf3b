"""The commands that measure, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import CommandLine


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "sample:digits", "--seconds", "0.3", "--pattern", "poisson"), ("Poisson", "✓ provider")),
        (("profile", "sample:digits", "--seconds", "0.3", "--backend", "openvino"), ("on openvino", "Convolution")),
        pytest.param(
            ("sweep", "sample:digits", "--seconds", "0.2", "--batches", "1"),
            ("Highest throughput", "batch 1, 1 thread"),
            marks=pytest.mark.heavy,
        ),
        (("loadgen", "sample:digits", "--seconds", "0.3"), ("LoadGen", "SingleStream")),
        (
            ("latency", "sample:digits", "--seconds", "0.2", "--backend", "openvino", "--set", "precision=float32"),
            ("p50", "CPU (f32)"),
        ),
    ],
)
def test_each_prints_its_table_and_what_was_checked(
    command_line: CommandLine, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    ended = command_line(*words)

    assert ended.returncode == 0, ended.stderr
    for text in said:
        assert text in ended.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "sample:digits", "--pattern", "poisson", "--rate", "0"), "rate = 0.0"),
        (
            ("profile", "sample:digits", "--set", "threads"),
            "'threads' is no option of a backend. Write it like threads=1.",
        ),
        (("latency", "sample:digits", "--backend", "tensorrt"), "cannot run digits_cnn here: there is no NVIDIA GPU"),
        (("profile", "sample:digits", "--set", "thread=1"), "has no option 'thread'"),
        (("explain", "nowhere.json"), "nowhere.json is not the result of a run"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_paragraph(
    command_line: CommandLine, words: tuple[str, ...], said: str
) -> None:
    ended = command_line(*words)

    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.heavy
def test_a_run_on_two_backends_is_explained_at_once_or_later(command_line: CommandLine, tmp_path: Path) -> None:
    recipe = {
        "model": "sample:digits",
        "data": "sample:digits",
        "explain": True,
        "options": {"threads": 1},
        "latency": {"seconds": 0.3},
        "candidates": [{"name": "dynamic", "transforms": [{"quantize_dynamic": {"convolutions": True}}]}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = command_line("run", "recipe.yaml", "--workspace", "space")
    assert ended.returncode == 0, ended.stderr
    assert "quantize_static" in ended.stdout
    [result] = (tmp_path / "space" / "runs").glob("*.json")
    again = command_line("show", result)
    assert "dynamic" in again.stdout
    assert "quantize_static" in again.stdout
