"""Static quantization beside its peers: time, memory, ranges, latency on two backends, accuracy.

`python -m benchmarks quantize` does all of it, about 20 minutes; a word chooses one part: calibration, memory, ranges,
latency or accuracy. ModelOpt needs an environment of its own: name its Python in MODELOPT_PYTHON to have it measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _nets import mobilenet_v2, resnet50
from _trained import trained_nets

import workbench as wb
from workbench.calibration import collect, find_range
from workbench.transforms._onnxruntime import read_prepared
from workbench.transforms._qdq import Placement, mark, operators_with_int8

HERE = Path(__file__).parent
ROUNDS = 2
PEERS = ("onnxruntime", "onnxsim", "NNCF", "ModelOpt")


def main() -> None:
    """Prints every table, or those that are named."""
    parts = {
        "calibration": calibration,
        "memory": memory,
        "ranges": ranges,
        "latency": latency,
        "accuracy": accuracy,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or parts:
            parts[name](Path(folder))


def calibration(folder: Path) -> None:
    """Seconds and peak memory of calibration and writing the model, tools in turns."""
    model, data = resnet50(folder / "resnet50.onnx"), samples(folder, 64)
    jobs: list[tuple[str, str]] = [("float run", ""), ("workbench", "percentile"), ("workbench", "minmax")]
    jobs += [("workbench", "entropy"), ("workbench", "mse"), ("onnxsim", "percentile"), ("onnxsim", "minmax")]
    jobs += [("onnxsim", "entropy"), ("onnxruntime", "minmax"), ("NNCF", "minmax"), ("ModelOpt", "minmax")]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for job in jobs:
            if (took := quantize(folder, *job, model=model, data=data, count=64)) is not None:
                found.setdefault(job, []).append(took)
    slow = ("onnxruntime", "percentile")  # half a minute and 8 GB: once is enough
    if (took := quantize(folder, *slow, model=model, data=data, count=64)) is not None:
        found[slow] = [took]
    floor = min(one["seconds"] for one in found["float run", ""])
    ours = min(one["seconds"] for one in found["workbench", "percentile"])
    print("ResNet-50, 64 samples: from the float file to the INT8 file (fastest and range of rounds in turns)")
    for (tool, method), runs in sorted(found.items(), key=lambda item: min(run["seconds"] for run in item[1])):
        times = [run["seconds"] for run in runs]
        print(
            f"  {tool:12}{method:12}{min(times):7.2f} s ({min(times):.1f}–{max(times):.1f})"
            f"{max(run['megabytes'] for run in runs):8.0f} MB   {min(times) / floor:5.2f} × the float run"
            f"   {min(times) / ours:5.2f} × ours (percentile)"
        )


def memory(folder: Path) -> None:
    """Our peak memory as samples grow."""
    model = resnet50(folder / "resnet50.onnx")
    print("ResNet-50, percentile: peak memory of the process by the number of samples")
    for count in (64, 256, 1024):
        took = quantize(folder, "workbench", "percentile", model=model, data=samples(folder, count), count=count)
        assert took
        print(f"  {count:5} samples {took['megabytes']:7.0f} MB {took['seconds']:7.1f} s")


def ranges(folder: Path) -> None:
    """Our ranges against onnxruntime's calibrators on the same tensors."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    path, data = mobilenet_v2(folder / "mobilenet_v2.onnx"), np.load(samples(folder, 16), mmap_mode="r")
    proto = read_prepared(wb.load_model(path), folder)
    marked = mark(proto, Placement(operators_with_int8()))
    ours = collect(proto, marked.activations, wb.Dataset({"image": data}))
    for method, kind in (("minmax", CalibrationMethod.MinMax), ("percentile", CalibrationMethod.Percentile)):
        file = folder / "prepared.onnx"
        onnx.save(proto, str(file))
        extra = {"percentile": 99.99, "symmetric": False} if method == "percentile" else {}
        theirs = create_calibrator(
            file, augmented_model_path=str(folder / "augmented.onnx"), calibrate_method=kind, extra_options=extra
        )
        batches = iter([{"image": np.ascontiguousarray(data[i : i + 1])} for i in range(len(data))])
        theirs.collect_data(type("Reader", (), {"get_next": lambda self, rest=batches: next(rest, None)})())
        found = theirs.compute_data()
        worst, bins = 0.0, 0.0
        for name in marked.activations:
            low, high = (np.asarray(end).item() for end in found[name].range_value)
            own = find_range(ours[name].histogram, method, percentile=99.99)  # type: ignore[arg-type]
            reach = max(abs(ours[name].histogram.low), abs(ours[name].histogram.high))
            off = max(abs(own.low - low), abs(own.high - high))
            width = max(reach / 1024, max(abs(low), abs(high)) / 128)  # theirs has 2048 over both sides
            worst, bins = max(worst, off / reach), max(bins, off / width)
        print(
            f"ranges, {method}, {len(marked.activations)} tensors of MobileNetV2, 16 samples: largest difference "
            f"{worst:.2%} of a tensor's range, {bins:.2f} histogram bins"
        )


def latency(folder: Path) -> None:
    """INT8 files of every tool on both backends, one thread, candidates in turns; and the choice among all of ours."""
    for name, build in (("ResNet-50", resnet50), ("MobileNetV2", mobilenet_v2)):
        model, data = build(folder / f"{name}.onnx"), samples(folder, 64)
        files = {"float": model}
        for tool, method in (("workbench", "minmax"), *((peer, "minmax") for peer in PEERS)):
            if quantize(folder, tool, method, model=model, data=data, count=64) is not None:
                files[tool] = folder / f"{tool}-{method}.onnx"
        if quantize(folder, "workbench", "minmax", model=model, data=data, count=64, options={"target": "openvino"}):
            files["workbench for openvino"] = folder / "workbench-minmax-openvino.onnx"
        medians = {}
        for backend in ("onnxruntime", "openvino"):
            shown = {tool: file for tool, file in files.items() if "openvino" not in tool or backend == "openvino"}
            engines = [wb.build_engine(wb.load_model(file), backend, {"threads": 1}) for file in shown.values()]
            settings = {"launches": 5, "seconds": 1.5}
            stats = wb.measure_latency(engines, settings, keep_going=True)
            for tool, one in zip(shown, stats, strict=True):
                if not isinstance(one, Exception):
                    medians[backend, tool] = one
        print(f"{name}, batch 1, one thread: fastest tenth, ms")
        for backend in ("onnxruntime", "openvino"):
            mine = "workbench for openvino" if backend == "openvino" else "workbench"
            for (where, tool), one in medians.items():
                if where == backend:
                    ratio = wb.speedup(one, medians[backend, mine]).p10
                    print(
                        f"  {backend:12}{tool:24}{p10(one):8.3f} ms   ours is {ratio.value:5.2f} × faster "
                        f"({ratio.low:.2f}–{ratio.high:.2f})"
                    )
        best = min((one for key, one in medians.items() if "workbench" in key[1]), key=p10)
        print(
            f"  the choice, {p10(best):.3f} ms, against onnxruntime's u8s8 on ONNX Runtime "
            f"{p10(medians['onnxruntime', 'onnxruntime']) / p10(best):.2f} ×, against float on ONNX Runtime "
            f"{p10(medians['onnxruntime', 'float']) / p10(best):.2f} ×"
        )


def accuracy(folder: Path) -> None:
    """Top-1, error and size of every tool's INT8 file, on nets that are trained."""
    for name, path, inputs, data in trained_nets(folder):
        calibration, evaluation = data
        np.save(folder / f"{name}.npy", calibration.inputs[inputs])
        float_model = wb.load_model(path)
        exact = wb.predict(wb.build_engine(float_model), evaluation)
        [output] = exact
        print(f"{name}: {path.stat().st_size / 1e3:.0f} kB, {len(evaluation)} evaluation samples")
        rows = [("float", "", path)]
        methods = [("workbench", method) for method in ("minmax", "percentile", "entropy", "mse")]
        methods += [("onnxruntime", "minmax"), ("onnxruntime", "percentile"), ("onnxsim", "minmax")]
        methods += [("onnxsim", "percentile"), ("onnxsim", "entropy"), ("NNCF", "minmax"), ("ModelOpt", "minmax")]
        for tool, method in methods:
            took = quantize(
                folder, tool, method, model=path, data=folder / f"{name}.npy", count=len(calibration), entry=inputs
            )
            if took is not None:
                rows.append((tool, method, folder / f"{tool}-{method}.onnx"))
        for tool, method, file in rows:
            found = wb.predict(wb.build_engine(wb.load_model(file)), evaluation)[output]
            top1 = float((found.argmax(axis=1) == evaluation.labels).mean())
            noise = float(np.square(found - exact[output]).sum())
            sqnr = 10 * np.log10(float(np.square(exact[output]).sum()) / noise) if noise else float("inf")
            print(
                f"  {tool:12}{method:12} top-1 {top1:7.2%}   SQNR {sqnr:5.1f} dB   {file.stat().st_size / 1e3:6.0f} kB"
                f"  {path.stat().st_size / file.stat().st_size:.2f} × smaller"
            )


def p10(stats: Any) -> float:
    """The fastest tenth of all launches, ms."""
    return float(np.median([block.p10_ms for block in stats.blocks]))


def quantize(
    folder: Path,
    tool: str,
    method: str,
    *,
    model: Path,
    data: Path,
    count: int,
    entry: str = "image",
    options: dict[str, Any] | None = None,
) -> dict[str, float] | None:
    """Runs one tool in a process of its own; None, with the reason printed, where it cannot be run."""
    python = os.environ.get("MODELOPT_PYTHON", "") if tool == "ModelOpt" else sys.executable
    if not python:
        return None
    output = folder / f"{tool}-{method}.onnx"
    if options:
        output = folder / f"{tool}-{method}-{'-'.join(map(str, options.values()))}.onnx"
    job = {"tool": tool, "method": method, "model": str(model), "data": str(data), "samples": count, "input": entry}
    (folder / "job.json").write_text(json.dumps({**job, "output": str(output), "options": options or {}}))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [python, str(HERE / "_quantizers.py"), str(folder / "job.json")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    if done.returncode:
        print(f"  {tool} {method}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def samples(folder: Path, count: int) -> Path:
    """Random images in a file that processes map instead of reading it whole."""
    path = folder / f"samples-{count}.npy"
    if not path.exists():
        random = np.random.default_rng(1)
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, 3, 224, 224))
        for start in range(0, count, 64):
            made[start : start + 64] = random.standard_normal(made[start : start + 64].shape, np.float32)
        made.flush()
    return path


if __name__ == "__main__":
    main()
