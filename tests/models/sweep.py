"""Puts every model of ONNX's own test suites through the workbench: load, summarize, skeleton, open, run, compare.

    python tests/models/sweep.py [--every 40] [--table sweep.txt]

Each model runs in a worker process, many per process, so that a crash is noticed, booked to its model, and survived.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import pickle
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

MODEL_SECONDS = 60  # what hangs longer is ended and reported
WORKER_BYTES = 8 * 2**30  # of address space; a model that asks for more is refused memory
VERDICTS = ("equal", "no data", "different", "refused", "failed", "died")
SUITES = ("simple", "pytorch-converted", "pytorch-operator")
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


@dataclass(frozen=True)
class Case:
    """A model with its inputs and the outputs that are expected of them; `external` lies beside it as `m.data`."""

    name: str
    model: bytes
    samples: Sequence[tuple[Sequence[Any], Sequence[Any]]] = ()
    rtol: float = 1e-3
    atol: float = 1e-7
    external: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        name: The suite and the model.
        reached: The last step it got to: load, summarize, skeleton, open, run, compare.
        verdict: `equal`, `different`, `no data`, `refused` (by a WorkbenchError), `failed` (by anything else), `died`.
        words: Why, unless equal.
        grown_mb: By how much load, summary and skeleton raised the process's peak memory.
    """

    name: str
    reached: str
    verdict: str
    words: str = ""
    grown_mb: float = 0.0


# --- the models ----------------------------------------------------------------------------------------------------


def all_cases(every: int = 1) -> list[Case]:
    """Every model, or each n-th; the node suite is generated, which takes 8 s for all of it."""
    step = math.isqrt(every)
    folders = [(suite, folder) for suite in SUITES for folder in sorted((DATA / suite).glob("test_*"))]
    return [
        *_light_cases(sorted((DATA / "light").glob("*.onnx"))[::every]),
        *(_folder_case(suite, folder) for suite, folder in folders[::every]),
        *_node_cases(step)[:: every // step],
    ]


def _node_cases(every: int) -> list[Case]:
    import onnx.backend.test.case.node as suite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows and divisions by zero that the cases provoke on purpose
        names = sorted(module.name for module in pkgutil.walk_packages(suite.__path__, f"{suite.__name__}."))
        for name in names[::every]:  # their cases are made at import
            importlib.import_module(name)
    return [
        Case(f"node/{case.name}", case.model.SerializeToString(), case.data_sets or [], case.rtol, case.atol)
        for case in suite._NodeTestCases
    ]


def _folder_case(suite: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    limits = json.loads((folder / "data.json").read_text()) if (folder / "data.json").exists() else {}
    samples = []
    for part in sorted(folder.glob("test_data_set_*")):
        inputs = [_read(part / f"input_{i}.pb", value) for i, value in enumerate(_fed(model.graph))]
        outputs = [_read(part / f"output_{i}.pb", value) for i, value in enumerate(model.graph.output)]
        if all(value is not None for value in (*inputs, *outputs)):
            samples.append((inputs, outputs))
    content = (folder / "model.onnx").read_bytes()
    return Case(f"{suite}/{folder.name}", content, samples, limits.get("rtol", 1e-3), limits.get("atol", 1e-7))


def _fed(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    if not path.exists():
        return None
    kind = value.type.WhichOneof("value")
    reader = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}.get(kind, onnx.TensorProto)()
    reader.ParseFromString(path.read_bytes())
    return reader


def _light_cases(paths: Sequence[Path]) -> Iterator[Case]:
    """Well-known networks whose weights are all alike; the input is a ramp from 0 to 1."""
    for path in paths:
        model = onnx.load(path)
        inputs = []
        for value in _fed(model.graph):
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            inputs.append((np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32))
        expected = onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))
        yield Case(f"light/{path.stem}", path.read_bytes(), [(inputs, [expected])], 1e-3, 1e-7)


# --- one model -----------------------------------------------------------------------------------------------------


def try_case(case: Case, folder: Path) -> Outcome:
    """Takes one model as far as it goes."""
    from workbench.backends import build_engine, open_runner
    from workbench.errors import WorkbenchError
    from workbench.graph import summarize_graph
    from workbench.importers import load_model
    from workbench.skeleton import without_weights

    path = folder / "model.onnx"
    path.write_bytes(case.model)
    (folder / "m.data").write_bytes(case.external)
    reached, before = "load", _peak_mb()
    grown = 0.0
    try:
        model = load_model(path)
        reached = "summarize"
        summarize_graph(model)
        reached = "skeleton"
        without_weights(path)
        reached, grown = "open", _peak_mb() - before
        with open_runner(build_engine(model, options={"threads": 1})) as runner:
            reached = "run"
            differences = []
            for inputs, expected in case.samples:
                feed = {spec.name: _plain(value) for spec, value in zip(model.inputs, inputs, strict=False)}
                outputs = runner.infer({name: value for name, value in feed.items() if value is not None})
                reached = "compare"
                differences += [
                    difference
                    for got, wanted in zip(outputs.values(), expected, strict=True)
                    if (difference := compare(got, _plain(wanted), case.rtol, case.atol))
                ]
    except WorkbenchError as error:
        silent = "" if error.message and error.remedy else "no message or no remedy: "
        grown = grown or _peak_mb() - before
        return Outcome(case.name, reached, "failed" if silent else "refused", f"{silent}{error}", grown)
    except BaseException as error:  # what must never happen is what this program looks for
        return Outcome(case.name, reached, "failed", f"{type(error).__name__}: {error}"[:600])
    if not case.samples:
        return Outcome(case.name, reached, "no data", "", grown)
    return Outcome(case.name, reached, "different" if differences else "equal", "; ".join(differences), grown)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(got: Any, wanted: Any, rtol: float, atol: float) -> str:
    """Says how an output differs from the expected one; empty if it does not."""
    if isinstance(wanted, list | tuple):
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"a list of {len(wanted)} was expected"
        return "; ".join(filter(None, map(lambda a, b: compare(a, b, rtol, atol), got, wanted)))
    if wanted is None or got is None:
        return "" if wanted is got else f"{wanted!r} was expected, not {got!r}"
    if isinstance(wanted, dict):
        return "" if got == wanted else "another map"
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape:
        return f"shape {got.shape} instead of {wanted.shape}"
    if wanted.dtype.kind in "OUS":
        return "" if np.array_equal(got.astype(str), wanted.astype(str)) else "other text"
    if got.dtype != wanted.dtype:
        return f"{got.dtype} instead of {wanted.dtype}"
    if np.iscomplexobj(got) or got.dtype.kind in "biu":
        a, b = got, wanted
    else:
        a, b = got.astype(np.float64), wanted.astype(np.float64)
        rtol = max(rtol, 2**-6) if wanted.dtype.name == "bfloat16" else rtol  # two units in its last place
    if np.allclose(a, b, rtol, atol, equal_nan=True):
        return ""
    with np.errstate(all="ignore"):
        return f"max_abs_error {np.nanmax(np.abs(a.astype(np.complex128) - b.astype(np.complex128))):.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, dict) else np.asarray(value)


# --- all models ----------------------------------------------------------------------------------------------------


def sweep(cases: Sequence[Case], *, model_seconds: int = MODEL_SECONDS) -> list[Outcome]:
    """Tries every model; one that kills or hangs its process costs a new process, not the run."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases):
            (Path(name) / f"{number}.case").write_bytes(pickle.dumps(case))
        while len(outcomes) < len(cases):
            command = [sys.executable, __file__, "--worker", name, str(len(outcomes)), str(model_seconds)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            outcomes += [Outcome(**json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("{")]
            if len(outcomes) < len(cases):
                end = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit {ended.returncode}"
                outcomes.append(Outcome(cases[len(outcomes)].name, "", "died", end))
    return outcomes


def work(folder: Path, first: int, model_seconds: int) -> None:
    """What a worker does: a line of JSON for each model from the given number on."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    for number in itertools.count(first):
        if not (folder / f"{number}.case").exists():
            return
        case = pickle.loads((folder / f"{number}.case").read_bytes())  # written by our own parent
        signal.alarm(model_seconds)  # ends this process, whatever it hangs in
        print(json.dumps(asdict(try_case(case, folder))), flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts by suite and verdict, then each model that is not equal, grouped by why."""
    suites = sorted({outcome.name.partition("/")[0] for outcome in outcomes})
    verdicts = [v for v in VERDICTS if any(outcome.verdict == v for outcome in outcomes)]
    lines = [f"{'suite':20}{'models':>8}" + "".join(f"{verdict:>11}" for verdict in verdicts)]
    for suite in [*suites, ""]:
        own = [outcome for outcome in outcomes if outcome.name.startswith(suite)]
        counts = Counter(outcome.verdict for outcome in own)
        lines.append(f"{suite or 'all':20}{len(own):>8}" + "".join(f"{counts[verdict]:>11}" for verdict in verdicts))
    for verdict in verdicts[1:]:
        for outcome in outcomes:
            if outcome.verdict == verdict:
                lines.append(f"{verdict} at {outcome.reached or '?'}: {outcome.name}: {outcome.words}")
    return "\n".join(lines)


def main() -> int:
    """Runs the sweep; 1 if any model failed or died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try only each n-th model")
    parser.add_argument("--table", type=Path, help="also write the table there")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        folder, first, model_seconds = arguments.worker
        work(Path(folder), int(first), int(model_seconds))
        return 0
    start = time.monotonic()
    outcomes = sweep(all_cases(arguments.every))
    text = f"{table(outcomes)}\n{time.monotonic() - start:.0f} s"
    print(text)
    if arguments.table:
        arguments.table.write_text(text + "\n")
    return int(any(outcome.verdict in ("failed", "died") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
