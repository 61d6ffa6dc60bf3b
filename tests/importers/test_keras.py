"""Keras models become ONNX, and what a file brings along does not run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime
import pytest

from workbench.errors import ModelError
from workbench.importers import load_model
from workbench.importers.keras.config import check_config
from workbench.workspace import Workspace

MARK = "harm-was-done"


def test_a_keras_file_becomes_a_checked_model(tensorflow_files: Path, shared_workspace: Workspace) -> None:
    model = load_model(tensorflow_files / "net.keras", workspace=shared_workspace)

    assert model.name == "net"
    assert model.source == "keras"
    assert [str(spec) for spec in model.inputs] == ["image float32[batch, 16, 16, 3]"]
    assert [str(spec) for spec in model.outputs] == ["scores float32[batch, 5]"]
    assert model.conversion
    assert model.conversion.framework.startswith("Keras 3.")
    assert model.conversion.checks[0].max_abs_error < 1e-5
    assert model.conversion.notes == ("Input image: images as NHWC (channels last), as trained.",)


@pytest.mark.parametrize(
    ("case", "inputs", "outputs"),
    [
        ("h5", ["image float32[batch, 16, 16, 3]"], ["scores float32[batch, 5]"]),
        ("text", ["words int32[batch, 12]"], ["lstm float32[batch, 6]"]),
        ("mask", ["x float32[batch, 8, 8, 2]"], ["argmax int32[batch, 8, 8]"]),
        (
            "two",
            ["extra float32[batch, 4]", "image float32[batch, image_axis1, image_axis2, 3]"],
            ["head float32[batch, 3]", "features float32[batch, features_axis1, features_axis2, 4]"],
        ),
    ],
)
def test_names_and_free_axes_are_kept(
    tensorflow_answers: Mapping[str, Any], case: str, inputs: list[str], outputs: list[str]
) -> None:
    answer = tensorflow_answers[case]

    assert answer.error is None
    assert [str(spec) for spec in answer.model.inputs] == inputs
    assert [str(spec) for spec in answer.model.outputs] == outputs
    assert max(check.max_abs_error for check in answer.conversion.checks) < 1e-5


def test_layers_that_the_converter_lacks_are_converted_all_the_same(tensorflow_answers: Mapping[str, Any]) -> None:
    """Grouped convolutions, CELU and GELU."""
    assert tensorflow_answers["grouped"].conversion.checks[0].max_abs_error < 1e-5


def test_channels_first_turns_images_and_nothing_else(tensorflow_answers: Mapping[str, Any]) -> None:
    plain, turned = tensorflow_answers["two"].model, tensorflow_answers["two channels first"].model
    image = np.random.default_rng(0).random((2, 20, 24, 3), np.float32)
    extra = np.ones((2, 4), np.float32)

    head, features = run(plain.path, {"image": image, "extra": extra})
    same_head, turned_features = run(turned.path, {"image": image.transpose(0, 3, 1, 2), "extra": extra})

    np.testing.assert_allclose(head, same_head, atol=1e-5)
    np.testing.assert_allclose(features.transpose(0, 3, 1, 2), turned_features, atol=1e-5)
    assert tensorflow_answers["two channels first"].conversion.notes == (
        "Input image: images as NCHW (channels first), where training had NHWC.",
        "Output features: images as NCHW (channels first), where training had NHWC.",
    )


def test_the_opset_is_the_users(tensorflow_answers: Mapping[str, Any]) -> None:
    assert tensorflow_answers["h5"].model.opset == 18
    assert tensorflow_answers["h5 channels first"].model.opset == 13


def test_a_layer_without_a_form_in_onnx_is_named(tensorflow_answers: Mapping[str, Any]) -> None:
    assert "Bucketize ('" in tensorflow_answers["buckets"].error.message
    assert "/buckets_" in tensorflow_answers["buckets"].error.message
    assert "Replace the layer" in tensorflow_answers["buckets"].error.remedy


def test_a_wrong_conversion_is_traced_to_its_node(tensorflow_answers: Mapping[str, Any]) -> None:
    error = tensorflow_answers["tampered"].error

    assert "'scores' differs by up to" in error.message
    assert "The first node that differs is 'functional_1/" in error.message
    assert "first_1" not in error.message  # that one is still right


# --- files that bring code along ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_a_lambda_does_not_run(tensorflow_files: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"brings along code.*Lambda \('run'\)") as caught:
        load_model(tensorflow_files / name)

    assert "trust=True" in caught.value.remedy
    assert not (tensorflow_files / MARK).exists()


def test_a_lambda_of_ones_own_runs(tensorflow_answers: Mapping[str, Any]) -> None:
    assert tensorflow_answers["trusted lambda"].error is None
    assert tensorflow_answers["trusted lambda"].harmed
    assert [name for name, answer in tensorflow_answers.items() if answer.harmed] == ["trusted lambda"]


def test_custom_classes_are_named(tensorflow_files: Path, tensorflow_answers: Mapping[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"not part of Keras: Mine \('mine'\)") as caught:
        load_model(tensorflow_files / "custom.keras")

    assert "custom_objects" in caught.value.remedy
    assert "does not have: Mine ('mine')" in tensorflow_answers["custom.h5"].error.message


def layer(**parts: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"name": "odd"},
        "registered_name": None,
        **parts,
    }


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (layer(class_name="TorchModuleWrapper", config={"name": "odd", "module": "gASV…"}), "TorchModuleWrapper"),
        (layer(class_name="TFSMLayer", config={"name": "odd", "filepath": "/tmp/x"}), "TFSMLayer"),
        (layer(class_name="StringLookup", config={"name": "odd", "vocabulary": "/etc/passwd"}), "/etc/passwd"),
        (layer(config={"name": "odd", "activation": {"class_name": "__lambda__", "config": {}}}), "__lambda__"),
        (layer(module="os", class_name="function", config="system"), "function"),
        (layer(module="builtins", class_name="exec", config={}), "exec"),
        (layer(module="builtins", class_name="function", config="os.system"), "function"),
        (layer(module="keras.utils", class_name="function", config="get_file"), "function"),
        (layer(module="keras.src.saving.saving_api", class_name="load_model"), "load_model"),
        (layer(module=None, registered_name="mine>Layer", class_name="Layer"), "Layer"),
        (layer(config={"name": "odd", "layer": [{"deep": layer(class_name="Lambda")}]}), "Lambda"),
    ],
)
def test_what_could_run_code_is_refused_wherever_it_hides(part: dict[str, Any], words: str) -> None:
    config = layer(class_name="Sequential", module="keras", config={"name": "net", "layers": [layer(), part]})
    check_config(Path("net.keras"), {**config, "config": {"name": "net", "layers": [layer()]}}, trust=False)

    with pytest.raises(ModelError, match=r"net\.keras") as caught:
        check_config(Path("net.keras"), config, trust=False)
    assert words in caught.value.message


def test_weights_alone_are_named_as_such(tensorflow_files: Path) -> None:
    with pytest.raises(ModelError, match="holds weights only"):
        load_model(tensorflow_files / "net.weights.h5")


def test_weights_in_another_file_are_refused(tmp_path: Path, tensorflow_files: Path) -> None:
    for name in ("net.h5", "net.keras"):
        (tmp_path / name).write_bytes((tensorflow_files / name).read_bytes())
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file["model_weights/secret"] = h5py.ExternalLink("/etc/passwd", "/")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("secret", (4,), "u1", external=[("/etc/passwd", 0, 4)])
    replace_in_zip(tmp_path / "net.keras", "model.weights.h5", (tmp_path / "weights.h5").read_bytes())

    for name in ("net.h5", "net.keras"):
        with pytest.raises(ModelError, match="keeps 'secret' in another file"):
            load_model(tmp_path / name)


def test_bombs_are_refused(tmp_path: Path, tensorflow_files: Path) -> None:
    (tmp_path / "net.keras").write_bytes((tensorflow_files / "net.keras").read_bytes())
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("zeros", (2**30,), "f8", chunks=(2**20,))  # a gigabyte of values in no bytes
    replace_in_zip(tmp_path / "net.keras", "model.weights.h5", (tmp_path / "weights.h5").read_bytes())
    with zipfile.ZipFile(tmp_path / "zeros.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Model", "config": {}}))
        with archive.open("model.weights.h5", "w", force_zip64=True) as stream:
            for _ in range(300):
                stream.write(bytes(2**20))

    for name in ("net.keras", "zeros.keras"):
        with pytest.raises(ModelError, match=r"is refused: .* would unpack to"):
            load_model(tmp_path / name)


def test_any_zip_or_hdf5_file_is_no_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("photo.txt", "a cat")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["values"] = np.zeros(4)

    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path / "photos.keras")
    with pytest.raises(ModelError, match="not of a Keras model"):
        load_model(tmp_path / "data.h5")


def replace_in_zip(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for part, old in parts.items():
            archive.writestr(part, content if part == name else old)


def run(path: Path, feed: dict[str, Any]) -> list[Any]:
    outputs: list[Any] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)
    return outputs
