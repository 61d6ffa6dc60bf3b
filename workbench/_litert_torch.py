"""Runs litert-torch and ai-edge-quantizer; started by another Python, it imports nothing of the workbench."""

import importlib.util
import inspect
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

_FLOAT_SHARE = 1e-3  # of an output's range: more is no rounding of float32
_ROWS = 128  # samples to calibrate with at most
_INLINE_BYTES = 2**31 - 2**20  # what one flatbuffer holds


class Refusal(Exception):
    """What is to be said to the user as it stands."""


def main(request_file: str, result_file: str) -> None:
    """Writes the .tflite file that the request names, and what came of it."""
    request = json.loads(Path(request_file).read_text())
    try:
        result = export(**request)
    except Refusal as error:
        result = {"problem": str(error), "kind": ""}
    except BaseException as error:  # the user's own code may raise anything, and end the process
        traceback.print_exc()
        result = {"problem": str(error), "kind": type(error).__name__}
    Path(result_file).write_text(json.dumps(result))


def export(
    factory: str,
    arguments: dict[str, Any],
    weights: str,
    inputs: list[dict[str, Any]],
    target: str,
    int8: str,
    samples: str,
) -> dict[str, Any]:
    """Builds the module, converts it, and compares the file with it.

    Args:
        factory: `package.module:function` or an absolute `folder/file.py:function`.
        arguments: Its keyword arguments.
        weights: A file of weights; those that the factory gives if empty.
        inputs: Name, element type and shape of each input, in the order of the module's parameters.
        target: The file to write.
        int8: `dynamic`, `static`, or empty for float32.
        samples: An .npz file with an array per input, to calibrate and compare with; random values if empty.

    Returns:
        Seconds of each phase; largest difference and range of each output.
    """
    begun = time.monotonic()
    import litert_torch  # type: ignore[import-not-found,unused-ignore]  # of the other environment
    import numpy as np
    import torch

    started = time.monotonic()
    module = _build(torch, factory, arguments, weights)
    takes = list(inspect.signature(module.forward).parameters)
    if strange := [entry["name"] for entry in inputs if entry["name"] not in takes]:
        raise Refusal(f"forward takes ({', '.join(takes)}), and nothing named {', '.join(strange)}")
    feeds = _feeds(np, inputs, samples)
    # By keyword, so that the inputs keep their names.
    named = {entry["name"]: torch.from_numpy(feeds[0][entry["name"]]) for entry in inputs}
    with torch.no_grad():
        given = module(**named)
    wanted = [value.numpy() for value in (given if isinstance(given, tuple | list) else [given])]
    built = time.monotonic()
    converted = litert_torch.convert(module, sample_kwargs=named)
    float_file = Path(target).with_suffix(".float.tflite") if int8 else Path(target)
    converted.export(str(float_file))
    exact = _differences(np, float_file, feeds[0], wanted)
    for entry in exact:
        if not entry["max_abs_error"] <= _FLOAT_SHARE * max(entry["range"], 1e-6):
            raise Refusal(
                f"the file computes something else than the module: output {entry['output']} differs by "
                f"{entry['max_abs_error']:.3g} where values reach {entry['range']:.3g}"
            )
    ended = time.monotonic()
    phases = {"start": started - begun, "module": built - started, "litert_torch": ended - built}
    if not int8:
        return {"phases": phases, "outputs": exact}
    _quantize(float_file, Path(target), int8, feeds)
    phases["quantizer"] = time.monotonic() - ended
    return {"phases": phases, "outputs": _differences(np, Path(target), feeds[0], wanted)}


def _build(torch: Any, factory: str, arguments: dict[str, Any], weights: str) -> Any:
    place, _, name = factory.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise Refusal(f"{place} does not exist")
        sys.path.insert(0, str(path.parent))  # for what it imports
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = code
        spec.loader.exec_module(code)
    else:
        code = importlib.import_module(place)
    if not callable(getattr(code, name, None)):
        raise Refusal(f"{place} has no function '{name}'")
    module = getattr(code, name)(**arguments)
    if not isinstance(module, torch.nn.Module):
        raise Refusal(f"the factory {factory} gives a {type(module).__name__}, not a torch.nn.Module")
    if weights.endswith(".safetensors"):
        from safetensors.torch import load_file

        module.load_state_dict(load_file(weights))
    elif weights:
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module.eval()


def _feeds(np: Any, inputs: list[dict[str, Any]], samples: str) -> list[dict[str, Any]]:
    """Inputs of the sizes asked for: the samples cut into batches, or a random one."""
    if not samples:
        generator = np.random.default_rng(0)
        return [
            {
                entry["name"]: (
                    (generator.random(entry["shape"]) * 4 - 2).astype(entry["dtype"])
                    if entry["dtype"].startswith("float")
                    else generator.integers(0, 2, entry["shape"]).astype(entry["dtype"])
                )
                for entry in inputs
            }
        ]
    with np.load(samples, allow_pickle=False) as archive:
        arrays = {entry["name"]: archive[entry["name"]] for entry in inputs}
    batch = inputs[0]["shape"][0]
    count = min(len(next(iter(arrays.values()))), _ROWS)
    starts = range(0, max(count - batch + 1, 1), batch)
    return [
        {name: np.resize(array[start : start + batch], (batch, *array.shape[1:])) for name, array in arrays.items()}
        for start in starts
    ]


def _quantize(source: Path, target: Path, kind: str, feeds: list[dict[str, Any]]) -> None:
    from ai_edge_quantizer import Quantizer, recipe  # type: ignore[import-not-found,unused-ignore]

    quantizer = Quantizer(str(source), recipe.dynamic_wi8_afp32() if kind == "dynamic" else recipe.static_wi8_ai8())
    seen = quantizer.calibrate({"serving_default": feeds}, num_threads=1) if kind == "static" else None
    quantizer.quantize(seen).export_model(str(target), overwrite=True)
    target.chmod(0o644)
    _put_inside(target)


def _put_inside(file: Path) -> None:
    """Moves constants into the flatbuffer; the quantizer puts those of larger models behind it.

    TensorFlow's tools, and so the importer, do not look for them there.
    """
    from ai_edge_litert import schema_py_generated
    from ai_edge_litert.tools import flatbuffer_utils

    content = file.read_bytes()
    model = schema_py_generated.Model.GetRootAs(content, 0)
    if len(content) < _INLINE_BYTES and any(model.Buffers(n).Offset() > 1 for n in range(model.BuffersLength())):
        flatbuffer_utils.write_model(flatbuffer_utils.read_model(file), file)


def _differences(np: Any, file: Path, feed: dict[str, Any], wanted: list[Any]) -> list[dict[str, Any]]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner("serving_default")
    takes, gives = runner.get_input_details(), runner.get_output_details()
    given = runner(**{name: _rounded(np, value, takes[name]) for name, value in feed.items()})
    found = []
    for place, value in enumerate(wanted):
        ours = given[f"output_{place}"]
        scale, zero = gives[f"output_{place}"]["quantization"]
        if scale:
            ours = (ours.astype(np.float64) - zero) * scale
        if ours.shape != value.shape:
            raise Refusal(f"output {place} has shape {ours.shape} in the file, and {value.shape} in PyTorch")
        error = np.abs(ours.astype(np.float64) - value).max(initial=0.0)
        found.append({"output": place, "max_abs_error": float(error), "range": float(np.abs(value).max(initial=0.0))})
    return found


def _rounded(np: Any, value: Any, detail: dict[str, Any]) -> Any:
    """A value as the file takes it: static INT8 takes integers."""
    scale, zero = detail["quantization"]
    if not scale:
        return value
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(value / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


if __name__ == "__main__":
    main(*sys.argv[1:])
