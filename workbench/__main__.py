"""The command line: one subcommand per verb; every flag comes from the verb's Options dataclass."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench import report
from workbench._flags import flags
from workbench.backends import build_engine
from workbench.comparison import Candidate, ChoiceOptions
from workbench.errors import GateError, ModelError, WorkbenchError, WorkerError
from workbench.exporters import export_package, read_package
from workbench.gates import Gates
from workbench.graph import summarize_graph
from workbench.importers import load_dataset, load_model
from workbench.jobs import Progress
from workbench.measure.accuracy import measure_accuracy
from workbench.measure.latency import LatencyOptions, measure_latency
from workbench.options import to_builtins
from workbench.plugins import find_plugin, list_plugins
from workbench.recipe import CandidateRecipe, DataRecipe, Recipe, Run, read_recipe, run_recipe
from workbench.transforms import transform
from workbench.trial import try_package
from workbench.workspace import Workspace, read_json, write_bytes

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="A model file, or sample:digits.")]
Samples = Annotated[str, tyro.conf.arg(help="Samples that score: an .npz file, or sample:digits.")]
Calibration = Annotated[str, tyro.conf.arg(help="Samples that set ranges; never those that score.")]
Root = Annotated[Path | None, tyro.conf.arg(help="Folder of results; $WORKBENCH_WORKSPACE if not given.")]
Threads = Annotated[int, tyro.conf.arg(help="Threads inside one operator; 0 takes every core.")]
Provider = Annotated[str, tyro.conf.arg(help="Execution provider of ONNX Runtime.")]
LatencyFlags: Any = flags(LatencyOptions)
ChoiceFlags: Any = flags(ChoiceOptions)
GateFlags: Any = flags(Gates)


def run(
    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="A .yaml or .json recipe.")],
    workspace: Root = None,
    fresh: Annotated[bool, tyro.conf.arg(help="Measure again even if an earlier run did.")] = False,
) -> None:
    """Run a recipe, the whole flow from model to package. Ends with 1 if a gate is missed."""
    wanted = read_recipe(recipe)
    _finish(run_recipe(wanted, workspace=Workspace(workspace), fresh=fresh, progress=_progress()))


def compare(
    model: Model,
    data: Samples,
    calibration: Calibration = "",
    transforms: Annotated[tuple[str, ...], tyro.conf.arg(help="Each becomes a candidate of its own.")] = (
        "quantize_static",
        "float16",
    ),
    threads: Threads = 0,
    provider: Provider = "CPUExecutionProvider",
    latency: LatencyFlags = LatencyFlags(),
    choose: ChoiceFlags = ChoiceFlags(),
    gates: GateFlags = GateFlags(),
    workspace: Root = None,
) -> None:
    """Transform a model in several ways, measure all of them and choose. Ends with 1 if a gate is missed."""
    if data.startswith("sample:"):
        calibration = calibration or data
    recipe = Recipe(
        model=model,
        data=DataRecipe(data, calibration),
        candidates=tuple(CandidateRecipe(name.replace("_", " "), (name,)) for name in transforms),
        options={"threads": threads, "provider": provider},
        latency=LatencyOptions(**to_builtins(latency)),
        choose=ChoiceOptions(**to_builtins(choose)),
        gates=Gates(**to_builtins(gates)),
    )
    wanted = read_recipe(to_builtins(recipe))
    _finish(run_recipe(wanted, workspace=Workspace(workspace), progress=_progress()))


def inspect(model: Model, batch: Annotated[int, tyro.conf.arg(help="Size of a dynamic first axis.")] = 1) -> None:
    """Show what a model takes and gives, its operators, parameters and multiply-accumulates."""
    loaded = load_model(model)
    summary = summarize_graph(loaded, batch=batch)
    print(f"{loaded.name}: {report.format_size(loaded.size_bytes / 1e6)}, opset {loaded.opset}")
    for title, specs in (("in ", loaded.inputs), ("out", loaded.outputs)):
        print("\n".join(f"  {title} {spec}" for spec in specs))
    print(f"  {summary.parameters:,} parameters, {summary.macs / 1e6:,.1f} M multiply-accumulates at batch {batch}")
    print(f"  {', '.join(f'{count} {operator}' for operator, count in summary.operators.items())}")


def latency(
    model: Model,
    data: Annotated[str, tyro.conf.arg(help="Samples to feed; random values if not given.")] = "",
    threads: Threads = 0,
    provider: Provider = "CPUExecutionProvider",
    options: Annotated[LatencyFlags, tyro.conf.OmitArgPrefixes] = LatencyFlags(),
) -> None:
    """Measure a model's latency as it is."""
    engine = build_engine(load_model(model), options={"threads": threads, "provider": provider})
    dataset = load_dataset(data, "evaluation") if data else None
    [stats] = measure_latency([engine], to_builtins(options), dataset=dataset, progress=_progress())
    for share in ("p50", "p90", "p95", "p99"):
        print(f"{share}  {report.format_estimate(getattr(stats, share))} ms")
    print(f"{stats.iterations} timings at batch {stats.batch}, {stats.threads} threads, on {engine.device}")
    print("\n".join(f"Do not trust this: {caveat}." for caveat in stats.caveats))


def accuracy(model: Model, data: Samples, workspace: Root = None) -> None:
    """Measure a classifier's top-1 accuracy."""
    engine = build_engine(load_model(model))
    dataset = load_dataset(data, "evaluation")
    result = measure_accuracy(engine, dataset, workspace=Workspace(workspace), progress=_progress())
    low, high = 100 * result.top1.low, 100 * result.top1.high
    print(f"top-1  {100 * result.top1.value:.2f} % ({low:.2f}–{high:.2f}, 95 % interval, {result.samples} samples)")


def show(result: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="A .json file that `run` wrote.")]) -> None:
    """Show the table of a finished run again."""
    try:
        finished = read_json(result, Run)
    except (OSError, ValueError) as error:
        raise ModelError(f"{result} is not the result of a run: {error}.", "Look in the workspace's `runs`.") from None
    print(report.comparison_text(finished.comparison, finished.choice))


def try_(package: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The package's folder.")]) -> None:
    """Start a package on this machine, send it its sample request, and stop it. Ends with 1 if it answers wrongly."""
    trial = try_package(read_package(package), progress=_progress())
    print(f"{trial.url} answered {trial.status} in {trial.milliseconds:.1f} ms; {trial.verdict}")
    if not trial.matches:
        raise SystemExit(1)


def plugins() -> None:
    """List importers, transforms, backends and exporters, and what each lacks on this machine."""
    lines = [("group", "name", "what it does")]
    for group in ("importers", "transforms", "backends", "exporters"):
        lines += [(group, p.name, p.summary if p.available else f"✗ {p.reason}") for p in list_plugins(group)]
    print(report.columns(lines, left=3))


def _transform_command(name: str) -> Callable[..., None]:
    kind: Any = flags(find_plugin("transforms", name).Options)

    def command(
        model: Model,
        output: Annotated[Path, tyro.conf.arg(help="Where to write the result; nothing is overwritten.")],
        data: Calibration = "",
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
        workspace: Root = None,
    ) -> None:
        if output.exists():
            raise ModelError(f"{output} exists already, and nothing is overwritten.", "Choose another name.")
        dataset = load_dataset(data, "calibration") if data else None
        result = transform(
            load_model(model),
            name,
            to_builtins(options),
            dataset=dataset,
            workspace=Workspace(workspace),
            progress=_progress(),
        )
        write_bytes(output, result.path.read_bytes())
        print(f"{output}  {report.format_size(result.size_bytes / 1e6)}")

    command.__doc__ = find_plugin("transforms", name).__doc__
    return command


def _export_command(name: str) -> Callable[..., None]:
    kind: Any = flags(find_plugin("exporters", name).Options)

    def command(
        model: Model,
        sample: Annotated[str, tyro.conf.arg(help="Samples; the first becomes the sample request.")],
        directory: Annotated[Path, tyro.conf.arg(help="Folder that does not exist yet.")],
        threads: Threads = 0,
        provider: Provider = "CPUExecutionProvider",
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
        workspace: Root = None,
    ) -> None:
        loaded = load_model(model)
        engine = build_engine(loaded, options={"threads": threads, "provider": provider})
        package = export_package(
            Candidate(loaded.name, engine),
            name,
            to_builtins(options),
            sample=load_dataset(sample, "evaluation"),
            directory=directory,
            workspace=Workspace(workspace),
            progress=_progress(),
        )
        print(f"{package.directory}\nStart it there: {' '.join(package.command)}")

    command.__doc__ = find_plugin("exporters", name).__doc__
    return command


def transform_(*names: str) -> None:
    """Apply one transform to a model: see `workbench transform --help`."""


def export_(*names: str) -> None:
    """Write a serving package: see `workbench export --help`."""


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "compare": compare,
    "inspect": inspect,
    "transform": transform_,
    "latency": latency,
    "accuracy": accuracy,
    "export": export_,
    "try": try_,
    "show": show,
    "plugins": plugins,
}
GROUPS = {"transform": ("transforms", _transform_command), "export": ("exporters", _export_command)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; errors end with a paragraph and a code: 1 for a missed gate, 2 for everything else."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] and words[0] in GROUPS:
            group, make = GROUPS[words[0]]
            commands = {p.name.replace("_", "-"): make(p.name) for p in list_plugins(group) if p.available}
            tyro.extras.subcommand_cli_from_dict(commands, prog=f"workbench {words[0]}", args=words[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="workbench", args=words, description=__doc__)
    except WorkbenchError as error:
        print(f"\n{error}", file=sys.stderr)
        if isinstance(error, WorkerError) and error.details:
            print(f"\n{error.details.strip()}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, GateError) else 2) from None
    except KeyboardInterrupt:
        print("\nCancelled; nothing unfinished was kept.", file=sys.stderr)
        raise SystemExit(130) from None


def _finish(finished: Run) -> None:
    print(report.comparison_text(finished.comparison, finished.choice))
    print(f"\nresult   {finished.path}")
    if finished.package:
        print(f"package  {finished.package.directory}")
    for gate in finished.gates:
        print(f"gate     {gate}")
    finished.check_gates()


def _progress() -> Progress:
    """One line that overwrites itself on a terminal; nothing elsewhere, so that logs stay readable."""

    def report_progress(fraction: float, message: str) -> None:
        if sys.stderr.isatty():
            end = "\r" if fraction < 1 else "\n"
            print(f"\033[K{100 * fraction:3.0f} %  {message[:100]}", end=end, file=sys.stderr, flush=True)

    return report_progress


if __name__ == "__main__":
    main()
