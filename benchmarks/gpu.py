"""Plans on an NVIDIA GPU beside trtexec, ONNX Runtime's CUDA provider and PyTorch, on the same nets in the same run.

`python benchmarks/gpu.py [--write] [--seconds 5] [--nets resnet50 …]`; without a GPU it says so and ends. Host time is
that of one call from inputs in the host's memory until the outputs are there; device time is what the GPU takes of it,
copies included. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import _nets

import workbench as wb
from workbench.backends._cuda import Cuda, Gpu, gpus
from workbench.backends._tensorrt_package import find_package
from workbench.engine import Engine, random_feed
from workbench.errors import ProviderError
from workbench.plugins import find_plugin, list_plugins
from workbench.workspace import ROOT_VARIABLE

NETS: Mapping[str, Callable[[Path], Path]] = {
    "resnet50": _nets.resnet50,
    "mobilenet_v2": _nets.mobilenet_v2,
    "bert_base": _nets.bert_base,
}
BATCHES = (1, 8, 32)
RESULTS = Path(__file__).parent / "results"
CALIBRATION_SAMPLES = 8  # of random values: what the nets compute means nothing, and speed does not depend on it


class Time(NamedTuple):
    """Median times of one inference, ms; None where they are not known."""

    host: float | None
    device: float | None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One net at one batch in one precision."""

    net: str
    batch: int
    precision: str
    model: wb.Model


def main() -> int:
    """Measures and prints a Markdown table; `--write` puts it into benchmarks/results as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/gpu-<name>.md")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each candidate")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    options = parser.parse_args()
    if not (found := gpus()):
        print(f"No GPU to measure on: {_why_none()}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ROOT_VARIABLE] = str(Path(folder) / "workspace")
        lines = [*head(found[0]), "", *table(Path(folder), options.nets, options.seconds)]
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', found[0].name.lower()).strip('-')}.md"
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"\nwritten to {target}")
    return 0


def _why_none() -> str:
    try:
        Cuda()
    except ProviderError as error:
        return error.message
    return "CUDA lists none."


def head(gpu: Gpu) -> list[str]:
    """What was measured on, and with what."""
    environment = wb.read_environment()
    packages = ", ".join(f"{name} {version}" for name, version in sorted(_versions().items()))
    return _print(
        f"# {gpu}",
        "",
        f"{datetime.date.today().isoformat()} · driver {gpu.driver} · {gpu.memory_bytes / 1e9:.0f} GB · "
        f"{environment.processor} · Python {environment.python}",
        "",
        packages,
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("tensorrt", "tensorrt_rtx", "onnxruntime-gpu", "torch", "cuda-python", "pycuda"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def table(folder: Path, nets: list[str], seconds: float) -> list[str]:
    """A row for each candidate; the ratio is its host time over that of our plan."""
    lines = _print(
        "| net | batch | precision | runs on | host ms | device ms | host time × ours | |",
        "|---|--:|---|---|--:|--:|--:|---|",
    )
    for case in cases(folder, nets):
        times = measure(case, seconds)
        ours = next(iter(times.values())).host
        for name, time in times.items():
            ratio = f"{time.host / ours:.2f}" if time.host and ours else "–"
            row = (case.net, case.batch, case.precision, name, _ms(time.host), _ms(time.device), ratio, time.note)
            lines += _print(f"| {' | '.join(map(str, row))} |")
    return lines


def cases(folder: Path, nets: list[str]) -> Iterator[Case]:
    """Every net in every precision at every batch."""
    for net in nets:
        original = wb.load_model(NETS[net](folder / f"{net}.onnx"))
        samples = wb.Dataset(random_feed(original, CALIBRATION_SAMPLES))
        models = {
            "float32": original,
            "float16": wb.transform(original, "float16"),
            "int8": wb.transform(original, "quantize_static", {"target": "tensorrt"}, dataset=samples),
        }
        for precision, model in models.items():
            for batch in BATCHES:
                yield Case(net, batch, precision, model)


def measure(case: Case, seconds: float) -> dict[str, Time]:
    """Times of all candidates that are installed, ours first; they take turns, in fresh processes."""
    times: dict[str, Time] = {}
    engines: dict[str, Engine] = {}
    for name, backend, options in candidates(case):
        try:
            times[name] = Time(None, None)  # keeps the order
            engines[name] = wb.build_engine(case.model, backend, options)
        except wb.WorkbenchError as error:
            times[name] = Time(None, None, error.message)
    plan = engines.get(next(iter(times)))
    before = run_trtexec(case, plan, seconds / 2)
    options = {"batch": case.batch, "seconds": seconds, "launches": 3}
    found = wb.measure_latency(list(engines.values()), options, keep_going=True) if engines else ()
    for name, stats in zip(engines, found, strict=True):
        if isinstance(stats, wb.WorkbenchError):
            times[name] = Time(None, None, stats.message)
        else:
            note = "" if stats.trust.good else "○ doubtful"
            times[name] = Time(stats.p50.value if stats.p50 else None, stats.device_ms, note)
    # Before and after the others, so that a GPU that has warmed up meanwhile shows.
    after = run_trtexec(case, plan, seconds / 2)
    told = {"trtexec, before": before, "trtexec, after": after}
    return {**times, **{name: time for name, time in told.items() if time}}


def candidates(case: Case) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the row, backend and options of each, our plan first."""
    package = find_package()
    batches = {"batch": case.batch, "max_batch": case.batch, "package": package.name}
    yield f"workbench, {package.title}", "tensorrt", batches
    if "CUDAExecutionProvider" in find_plugin("backends", "onnxruntime").devices():
        yield "ONNX Runtime, CUDA", "onnxruntime", {"provider": "CUDAExecutionProvider"}
    if case.precision != "int8" and any(each.name == "pytorch" and each.available for each in list_plugins("backends")):
        devices = find_plugin("backends", "pytorch").devices()
        if any(device.startswith("cuda") for device in devices):
            yield "PyTorch eager, CUDA", "pytorch", {"device": "cuda"}


def run_trtexec(case: Case, engine: Engine | None, seconds: float) -> Time | None:
    """NVIDIA's own tool on our plan; None where it is not on PATH, or there is no plan.

    Its latency is that of copies and inference by events on the device, without what the host adds; `--exposeDMA` keeps
    the copies of one query from hiding behind the next.
    """
    if engine is None:
        return None
    tool = shutil.which("tensorrt_rtx" if "tensorrt_rtx" in engine.versions else "trtexec")
    if tool is None:
        return None
    shapes = ",".join(
        f"{name}:{'x'.join(map(str, array.shape))}" for name, array in random_feed(case.model, case.batch).items()
    )
    graphs = [] if "tensorrt_rtx" in engine.versions else ["--useCudaGraph"]  # RTX's tool uses its own by itself
    command = [tool, f"--loadEngine={engine.path}", f"--shapes={shapes}", *graphs, "--exposeDMA", "--useSpinWait"]
    command += [f"--duration={max(1, round(seconds))}", "--warmUp=500"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if answer.returncode:
        last = [line for line in (answer.stdout + answer.stderr).splitlines() if "[E]" in line][-1:]
        return Time(None, None, f"trtexec failed: {' '.join(last)[:120]}")
    return Time(
        None, read_median(answer.stdout, "Latency"), f"GPU compute {read_median(answer.stdout, 'GPU Compute Time')} ms"
    )


def read_median(text: str, what: str) -> float | None:
    """A median from the summary of trtexec, e.g. `[I] Latency: min = 1 ms, max = 2 ms, mean = 1.5 ms, median = …`."""
    told = re.search(rf"\] {what}: .*?median = ([\d.]+) ms", text)
    return float(told[1]) if told else None


def _ms(value: float | None) -> str:
    return f"{value:.3g}" if value is not None else "–"


def _print(*lines: str) -> list[str]:
    print("\n".join(lines), flush=True)
    return list(lines)


if __name__ == "__main__":
    sys.exit(main())
