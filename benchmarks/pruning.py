"""Channel pruning: how much faster ResNet-50 and MobileNetV2 become, against onnxsim's own, and with INT8 on top.

The weights are random, so only time means something here; what accuracy keeps is tested on the bundled model. Models
are measured in turns, on one thread with one sample; ratios are paired by launch and have 95 % intervals.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _nets import mobilenet_v2, resnet50

import workbench as wb
from workbench.measure.statistics import Estimate

NETS: dict[str, Callable[[Path], Path]] = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
THREADS = {"threads": 1}
SAMPLES = 16
# Weights are random: nothing can be repaired or ranked, and numbers of channels are the same either way.
QUICK = {"recover": False, "importance": "magnitude"}


def main() -> None:
    """Prints a table for each net; `NET SECONDS` measures one for so many seconds a model, e.g. `resnet50 3`."""
    names, seconds = sys.argv[1:2] or list(NETS), float("".join(sys.argv[2:3]) or 8)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            bench = _Bench(name, Path(folder), seconds)
            bench.pruned()
            if name == "resnet50":
                bench.pruned_and_quantized()


class _Bench:
    """One net and what is made of it."""

    def __init__(self, name: str, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._workspace = wb.Workspace(folder / "workspace")
        self._model = wb.load_model(NETS[name](folder / f"{name}.onnx"))
        images = np.random.default_rng(0).random((SAMPLES, 3, 224, 224), np.float32)
        self._samples = wb.Dataset({self._model.inputs[0].name: images})

    def pruned(self) -> None:
        """30 % of the channels gone, all in float on ONNX Runtime."""
        models = {"original": self._model, "workbench, 30 %": self._prune(self._model, 30)}
        models |= {"workbench, 30 % at the least": self._prune(self._model, 30, rounding="down")}
        models |= {"workbench, 30 %, not aligned": self._prune(self._model, 30, align=1)}
        models |= dict(self._by_onnxsim())
        self._compare({name: wb.build_engine(model, options=THREADS) for name, model in models.items()}, models)

    def pruned_and_quantized(self) -> None:
        """50 % gone and INT8, on both backends, against the original in float on ONNX Runtime."""
        half = self._prune(self._model, 50)
        int8 = self._transform(half, "quantize_static", {"samples": SAMPLES})
        models = {"original": self._model, "50 %": half, "50 %, INT8": int8}
        engines = {name: wb.build_engine(model, options=THREADS) for name, model in models.items()}
        if "openvino" in {plugin.name for plugin in wb.list_plugins("backends") if plugin.available}:
            models["50 %, INT8, OpenVINO"] = int8
            engines["50 %, INT8, OpenVINO"] = wb.build_engine(int8, "openvino", THREADS)
        self._compare(engines, models)

    def _by_onnxsim(self) -> Iterator[tuple[str, wb.Model]]:
        with contextlib.suppress(ImportError):
            import onnxsim

            proto = onnx.load(str(self._model.path))
            for name, function in (("C++", "apply_structured_pruning_cpp"), ("Python", "apply_structured_pruning")):
                path = self._folder / f"{self._model.name}-onnxsim-{name}.onnx"
                onnx.save(getattr(onnxsim, function)(proto, 0.3), path)
                yield f"onnxsim {onnxsim.__version__.removeprefix('v')} ({name}), 30 %", wb.load_model(path)

    def _prune(self, model: wb.Model, share: float, **options: Any) -> wb.Model:
        return self._transform(model, "prune_channels", {"share": share, **QUICK, **options})

    def _transform(self, model: wb.Model, name: str, options: Mapping[str, Any]) -> wb.Model:
        return wb.transform(model, name, options, dataset=self._samples, workspace=self._workspace)

    def _compare(self, engines: Mapping[str, wb.Engine], models: Mapping[str, wb.Model]) -> None:
        stats = wb.measure_latency(
            list(engines.values()), {"seconds": self._seconds, "precision": 0.1}, dataset=self._samples
        )
        print(f"\n{f'{self._model.name}, one thread, batch 1':46}{'MB':>8}{'p10 ms':>10}   times faster (95 %)")
        for (name, _), one in zip(engines.items(), stats, strict=True):
            ratio = wb.speedup(stats[0], one).p10
            fastest = one.p10.value if one.p10 else one.mean_ms
            print(f"  {name:44}{models[name].size_bytes / 1e6:>8.1f}{fastest:>10.2f}   {_text(ratio)}", flush=True)


def _text(ratio: Estimate) -> str:
    return f"{ratio.value:5.2f} × ({ratio.low:.2f}–{ratio.high:.2f})"


if __name__ == "__main__":
    main()
