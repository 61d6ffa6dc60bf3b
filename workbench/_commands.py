"""The command line: one subcommand per verb; every flag comes from the verb's Options dataclass."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench import model_report, report
from workbench._canary_commands import canary
from workbench._compress_commands import budget, prune_to_latency, sensitivity
from workbench._engine_commands import build_command, engine, explore, export_litert, rebuild
from workbench._flags import Calibration, Model, Provider, Root, Samples, Threads, backend_options, flags, show_progress
from workbench._measure_commands import (
    AccuracyFlags,
    LatencyFlags,
    RunFile,
    accuracy,
    explain,
    latency,
    load,
    load_curve,
    loadgen,
    measure_serving,
    profile,
    read_run,
    sweep,
)
from workbench._plugin_commands import export_command, import_command, transform_command
from workbench._server_commands import add_version
from workbench._serving_commands import load_service, watch
from workbench._training_commands import distil, prune_module
from workbench.backends import find_unsupported
from workbench.choice import ChoiceOptions
from workbench.comparison import ORIGINAL
from workbench.errors import GateError, WorkbenchError
from workbench.findings.text import findings_text
from workbench.gates import Gates
from workbench.graph import diff_graphs, summarize_graph
from workbench.importers import load_model
from workbench.measure.accuracy import AccuracyOptions
from workbench.measure.latency import LatencyOptions
from workbench.options import to_builtins
from workbench.plugins import find_plugin, list_plugins
from workbench.provenance import verify_package
from workbench.recipe import CandidateRecipe, DataRecipe, Recipe, Run, read_recipe, run_recipe
from workbench.trial import become_service, try_package
from workbench.workspace import Workspace

ChoiceFlags: Any = flags(ChoiceOptions)
GateFlags: Any = flags(Gates)


def run(
    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="A .yaml or .json recipe.")],
    workspace: Root = None,
    fresh: Annotated[bool, tyro.conf.arg(help="Measure again even if an earlier run did.")] = False,
) -> None:
    """Run a recipe, the whole flow from model to package. Ends with 1 if a gate is missed."""
    wanted = read_recipe(recipe)
    _finish(run_recipe(wanted, workspace=Workspace(workspace), fresh=fresh, progress=show_progress()))


def compare(
    model: Model,
    data: Samples,
    calibration: Calibration = "",
    transforms: Annotated[tuple[str, ...], tyro.conf.arg(help="Each becomes a candidate of its own.")] = (
        "quantize_static",
        "float16",
    ),
    backends: Annotated[tuple[str, ...], tyro.conf.arg(help="Each runs every candidate; the first, the original.")] = (
        "onnxruntime",
    ),
    threads: Threads = 0,
    provider: Provider = "CPUExecutionProvider",
    explain: Annotated[bool, tyro.conf.arg(help="Say why each candidate is as fast as it is.")] = False,
    accuracy: AccuracyFlags = AccuracyFlags(),
    latency: LatencyFlags = LatencyFlags(),
    choose: ChoiceFlags = ChoiceFlags(),
    gates: GateFlags = GateFlags(),
    workspace: Root = None,
) -> None:
    """Transform a model in several ways, measure all of them and choose. Ends with 1 if a gate is missed."""
    if data.startswith("sample:"):
        calibration = calibration or data
    options = {name: backend_options(name, threads, provider) for name in backends}
    recipe = Recipe(
        model=model,
        data=DataRecipe(data, calibration),
        candidates=_candidates(transforms, options),
        backend=backends[0],
        options=options[backends[0]],
        explain=explain,
        accuracy=AccuracyOptions(**to_builtins(accuracy)),
        latency=LatencyOptions(**to_builtins(latency)),
        choose=ChoiceOptions(**to_builtins(choose)),
        gates=Gates(**to_builtins(gates)),
    )
    wanted = read_recipe(to_builtins(recipe))
    _finish(run_recipe(wanted, workspace=Workspace(workspace), progress=show_progress()))


def inspect(model: Model, batch: Annotated[int, tyro.conf.arg(help="Size of a dynamic first axis.")] = 1) -> None:
    """Show what a model takes and gives, what its operators cost, and what a backend here cannot run."""
    loaded = load_model(model, progress=show_progress())
    print(model_report.model_text(loaded, summarize_graph(loaded, batch=batch)))
    if loaded.conversion:
        print(f"\n{model_report.conversion_text(loaded)}")
    if missing := model_report.support_text(find_unsupported(loaded)):
        print(f"\n{missing}")


def diff(before: Model, after: Model) -> None:
    """Show what differs between two models: nodes added, removed, fused, or changed in precision."""
    print(model_report.diff_text(diff_graphs(load_model(before), load_model(after))))


def show(result: RunFile) -> None:
    """Show the table of a finished run again."""
    finished = read_run(result)
    print(report.comparison_text(finished.comparison, finished.choice))
    if finished.findings:
        print(f"\n{findings_text(finished.findings)}")


def try_(package: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The package's folder.")]) -> None:
    """Start a package on this machine, send it its sample request, and stop it. Ends with 1 if it answers wrongly."""
    trial = try_package(package, progress=show_progress())
    print(f"{trial.url} answered {trial.status} in {trial.milliseconds:.1f} ms; {trial.verdict}")
    if not trial.matches:
        raise SystemExit(1)


def serve(
    package: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The package's folder; code in it is run.")],
    port: Annotated[int, tyro.conf.arg(help="Port on 127.0.0.1; 0 takes a free one.")] = 8000,
    workers: Annotated[int, tyro.conf.arg(help="Processes side by side; 0 is what its config.json says.")] = 0,
) -> None:
    """Run a package on this machine until Ctrl+C. A key, where it wants one, is $WORKBENCH_API_KEY or made up."""
    become_service(package, port=port, workers=workers)


def verify(
    package: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The package's folder, or a ZIP or tar file.")],
    key: Annotated[Path | None, tyro.conf.arg(help="Public key (PEM) that it must be signed with.")] = None,
    fingerprint: Annotated[str, tyro.conf.arg(help="The one that the export printed.")] = "",
) -> None:
    """Find changed, missing and added files of a package. Ends with 1 if there are any; nothing in it is run."""
    found = verify_package(package, key=key, fingerprint=fingerprint, progress=show_progress())
    print(found)
    if found.fingerprint:
        print(f"Fingerprint: sha256:{found.fingerprint}")
    if not found.ok:
        raise SystemExit(1)


def plugins() -> None:
    """List importers, transforms, backends and exporters, and what each lacks on this machine."""
    lines = [("group", "name", "what it does")]
    for group in ("importers", "transforms", "backends", "exporters"):
        lines += [(group, p.name, p.summary if p.available else f"✗ {p.reason}") for p in list_plugins(group)]
    print(report.columns(lines, left=3))


def import_(*names: str) -> None:
    """Convert a trained model to ONNX, compared with the original: see `workbench import --help`."""


def transform_(*names: str) -> None:
    """Apply one transform to a model: see `workbench transform --help`."""


def build_(*names: str) -> None:
    """Build an engine on one backend: see `workbench build --help`."""


def export_(*names: str) -> None:
    """Write a serving package: see `workbench export --help`."""


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "compare": compare,
    "import": import_,
    "inspect": inspect,
    "diff": diff,
    "transform": transform_,
    "sensitivity": sensitivity,
    "budget": budget,
    "prune-to-latency": prune_to_latency,
    "distil": distil,
    "prune-module": prune_module,
    "latency": latency,
    "accuracy": accuracy,
    "load": load,
    "load-curve": load_curve,
    "sweep": sweep,
    "measure-serving": measure_serving,
    "loadgen": loadgen,
    "profile": profile,
    "build": build_,
    "engine": engine,
    "explore": explore,
    "rebuild": rebuild,
    "explain": explain,
    "export-litert": export_litert,
    "export": export_,
    "try": try_,
    "serve": serve,
    "verify": verify,
    "add-version": add_version,
    "watch": watch,
    "load-service": load_service,
    "canary": canary,
    "show": show,
    "plugins": plugins,
}
GROUPS = {
    "import": ("importers", import_command),
    "transform": ("transforms", transform_command),
    "build": ("backends", build_command),
    "export": ("exporters", export_command),
}


def command_line(words: Sequence[str]) -> None:
    """Runs one command; errors end with a paragraph and a code: 1 for a missed gate, 2 for everything else."""
    try:
        if words[:1] and words[0] in GROUPS:
            group, make = GROUPS[words[0]]
            known = {p.name.replace("_", "-"): p for p in list_plugins(group)}
            if words[1:] and (asked := known.get(words[1].replace("_", "-"))) and not asked.available:
                find_plugin(group, asked.name)  # says what it lacks
            commands = {name: make(p.name) for name, p in known.items() if p.available}
            tyro.extras.subcommand_cli_from_dict(commands, prog=f"workbench {words[0]}", args=words[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="workbench", args=words, description=__doc__)
    except WorkbenchError as error:
        print(f"\n{error}", file=sys.stderr)
        if details := getattr(error, "details", ""):
            print(f"\n{details.strip()}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, GateError) else 2) from None


def _candidates(transforms: Sequence[str], backends: Mapping[str, dict[str, Any]]) -> tuple[CandidateRecipe, ...]:
    """Each transform on each backend; on all but the first, the model as it is too."""
    first = next(iter(backends))
    found = [CandidateRecipe(name.replace("_", " "), (name,), first, backends[first]) for name in transforms]
    for backend in list(backends)[1:]:
        found.append(CandidateRecipe(f"{ORIGINAL} · {backend}", (), backend, backends[backend]))
        found += [
            CandidateRecipe(f"{name.replace('_', ' ')} · {backend}", (name,), backend, backends[backend])
            for name in transforms
        ]
    return tuple(found)


def _finish(finished: Run) -> None:
    print(report.comparison_text(finished.comparison, finished.choice))
    print(f"\nresult   {finished.path}")
    if finished.findings:
        print(f"\n{findings_text(finished.findings)}\n")
    if finished.package:
        print(f"package  {finished.package.directory}")
    for gate in finished.gates:
        print(f"gate     {gate}")
    finished.check_gates()
