"""Commands made from plugins: one subcommand each, with the flags of the plugin's own Options."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench import model_report, report
from workbench._flags import (
    Backend,
    Calibration,
    Model,
    Provider,
    Root,
    Settings,
    Threads,
    backend_options,
    flags,
    read_settings,
    show_progress,
)
from workbench._measure_commands import AccuracyFlags, ServingFlags, read_run
from workbench.backends import build_engine
from workbench.comparison import ORIGINAL, Candidate, Row, compare
from workbench.dataset import Dataset
from workbench.errors import DatasetError, ExportError, ModelError, OptionsError
from workbench.exporters import check_backend, export_package, plan_package
from workbench.importers import importer_for, load_dataset, load_model
from workbench.measure.latency import LatencyOptions
from workbench.options import option, suggest, to_builtins
from workbench.package_measure import measure_for_package
from workbench.plugins import find_plugin
from workbench.provenance import PASSWORD_VARIABLE, check_key, fingerprint_of
from workbench.samples import SAMPLE_PREFIX
from workbench.saving import save_model
from workbench.serving_measurements import Measurements
from workbench.serving_plan import describe_plan
from workbench.transforms import transform
from workbench.workspace import Workspace

Output = Annotated[Path, tyro.conf.arg(help="Where to write the result; nothing is overwritten.")]
Trust = Annotated[bool, tyro.conf.arg(help="Let the file run code of its own; only for files of your own.")]
SignKey = Annotated[
    Path | None,
    tyro.conf.arg(
        help=f"Private key (PEM, elliptic curve) to sign with; its password is read from ${PASSWORD_VARIABLE}."
    ),
]
Compare = Annotated[str, tyro.conf.arg(help="Samples to compare the original and its ONNX model on.")]


@dataclass(frozen=True)
class _RowOptions(LatencyOptions):
    """How long and on what latency is measured."""

    batch: (
        Annotated[
            int,
            option(
                "Samples per inference; if not given, 1, or the number that the model is fixed at.",
                minimum=1,
                maximum=4096,
                unit="samples",
            ),
        ]
        | None
    ) = None  # type: ignore[assignment]  # of the flag alone: the model decides if it is not given


RowFlags: Any = flags(_RowOptions)


def _titled(name: str) -> tuple[Any, ...]:
    """How tyro shows a plugin's options: under its name, which is in none of the flags."""
    return tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=name)


def import_command(name: str) -> Callable[..., None]:
    """The command that converts files of one format to ONNX."""
    kind: Any = flags(find_plugin("importers", name).Options)

    def command(
        source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="The trained model: a file or a folder.")],
        output: Output,
        samples: Compare = "",
        trust: Trust = False,
        options: Annotated[kind, *_titled(name)] = kind(),
        workspace: Root = None,
    ) -> None:
        if (found := importer_for(Path(source).expanduser())) != name:
            raise ModelError(f"{source} is read by the importer {found}, not {name}.", f"Run: workbench import {found}")
        model = load_model(
            source,
            to_builtins(options),
            samples=load_dataset(samples, "calibration") if samples else None,
            trust=trust,
            workspace=Workspace(workspace),
            progress=show_progress(),
        )
        saved = save_model(model, output)
        print(f"{output}  {report.format_size(saved.size_bytes / 1e6)}")
        print("\n".join(f"  {spec}" for spec in (*saved.inputs, *saved.outputs)))
        if text := model_report.conversion_text(saved):
            print(f"\n{text}")

    command.__doc__ = find_plugin("importers", name).__doc__
    return command


def transform_command(name: str) -> Callable[..., None]:
    """The command that applies one transform."""
    kind: Any = flags(find_plugin("transforms", name).Options)

    def command(
        model: Model,
        output: Output,
        data: Calibration = "",
        options: Annotated[kind, *_titled(name)] = kind(),
        workspace: Root = None,
    ) -> None:
        if output.exists():  # said now, not after minutes of work
            raise ModelError(f"{output} exists already, and nothing is overwritten.", "Choose another name.")
        result = transform(
            load_model(model),
            name,
            to_builtins(options),
            dataset=load_dataset(data, "calibration") if data else None,
            workspace=Workspace(workspace),
            progress=show_progress(),
        )
        print(f"{output}  {report.format_size(save_model(result, output).size_bytes / 1e6)}")
        for note in result.history[-1].notes:
            print(f"  {note}")

    command.__doc__ = find_plugin("transforms", name).__doc__
    return command


def export_command(name: str) -> Callable[..., None]:
    """The command that writes one kind of package."""
    kind: Any = flags(find_plugin("exporters", name).Options)

    def command(
        directory: Annotated[Path, tyro.conf.arg(help="Folder that does not exist yet.")],
        model: Annotated[
            tyro.conf.Positional[str], tyro.conf.arg(help="A model file, or sample:digits; none with --run.")
        ] = "",
        sample: Annotated[
            str,
            tyro.conf.arg(
                help="Samples; the first becomes the sample request. If none, those of the run or of sample:digits."
            ),
        ] = "",
        run: Annotated[Path | None, tyro.conf.arg(help="A .json file that `run` wrote: a candidate of it.")] = None,
        candidate: Annotated[str, tyro.conf.arg(help="Which candidate of the run; the chosen one if not given.")] = "",
        backend: Backend = "onnxruntime",
        settings: Settings = (),
        threads: Threads = 0,
        provider: Provider = "CPUExecutionProvider",
        measure: Annotated[
            bool, tyro.conf.arg(help="Measure first (latency, accuracy, load): the package's numbers follow from it.")
        ] = False,
        original: Annotated[
            str, tyro.conf.arg(help="With --measure: a model to compare accuracy and speed with.")
        ] = "",
        measurement: ServingFlags = ServingFlags(),
        latency: RowFlags = RowFlags(),
        accuracy: AccuracyFlags = AccuracyFlags(),
        sign_key: SignKey = None,
        options: Annotated[kind, *_titled(name)] = kind(),
        workspace: Root = None,
    ) -> None:
        if directory.exists():  # this and the next are said now, not after minutes of measuring
            raise ExportError(
                f"{directory} exists already, and nothing in it is overwritten.",
                "Choose a folder that does not exist yet.",
            )
        if sign_key:
            check_key(sign_key)
        if original and not measure:
            raise OptionsError("--original is compared with by measuring.", "Add --measure, or leave it out.")
        kept, row = Workspace(workspace), None
        if run:
            others = {"MODEL": model, "--set": settings, "--threads": threads, "--original": original}
            others |= {"--backend": backend != "onnxruntime", "--provider": provider != "CPUExecutionProvider"}
            row, sample = _row_of_run(run, candidate, sample, [word for word, given in others.items() if given])
            chosen = row.candidate
        elif not model or candidate:
            missing = "is neither a model nor a run" if not model else "is a candidate, but no run that it is of"
            raise OptionsError(f"There {missing}.", "Give MODEL, or --run RUN.json and, if you like, --candidate NAME.")
        else:
            built = {**backend_options(backend, threads, provider), **read_settings(settings)}
            loaded = load_model(model)
            chosen = Candidate(loaded.name, build_engine(loaded, backend, built))
            sample = sample or (model if model.startswith(SAMPLE_PREFIX) else "")
        check_backend(chosen, name)
        if not sample:
            raise DatasetError("There are no samples for the package's sample request.", "Give some with --sample.")
        samples = load_dataset(sample, "evaluation")
        found = Measurements(row)
        if measure:
            if row is None:
                first = [_reference(original, chosen)] if original else []
                batch = latency.batch or chosen.engine.model.fixed_batch or LatencyOptions().batch
                wanted = ({**to_builtins(latency), "batch": batch}, to_builtins(accuracy))
                row = _measure_row([*first, chosen], samples, *wanted, kept)
            serving = to_builtins(measurement)
            found = measure_for_package(
                chosen, name, samples, serving, row=row, workspace=kept, progress=show_progress()
            )
        package = export_package(
            chosen,
            name,
            to_builtins(options),
            sample=samples,
            measured=found,
            directory=directory,
            sign_key=sign_key,
            workspace=kept,
            progress=show_progress(),
        )
        print(package.directory)
        if package.command:
            print(f"Start it there: {' '.join(package.command)}")
        else:
            print("README.md there says how to go on.")
        print(f"Fingerprint: sha256:{fingerprint_of(package.directory)}")
        print(_numbers_text(chosen, name, found, samples))

    command.__doc__ = find_plugin("exporters", name).__doc__
    return command


def _row_of_run(path: Path, candidate: str, sample: str, others: Sequence[str]) -> tuple[Row, str]:
    """A candidate of a finished run with what was measured of it, and the samples to take.

    Raises:
        OptionsError: The run has no such candidate, or something else was given too that the run decides.
        ModelError: The file is no run, or the candidate's model is gone.
    """
    if others:
        raise OptionsError(f"{', '.join(others)} and --run exclude each other: the run says it.", "Leave one out.")
    finished = read_run(path)
    name = candidate or finished.choice.name
    if name not in (names := [row.name for row in finished.comparison.rows]):
        raise OptionsError(f"{path} has no measured candidate '{name}'.", suggest(name, names))
    row = finished.comparison[name]
    engine = row.candidate.engine
    if lost := next((file for file in (engine.model.path, engine.path) if not file.exists()), None):
        raise ModelError(
            f"{lost}, of the candidate {name}, is gone.", "Run the recipe again: it makes what is missing."
        )
    return row, sample or finished.recipe.data.evaluation


def _reference(model: str, chosen: Candidate) -> Candidate:
    """The model that a candidate is compared with, on the same backend."""
    name = ORIGINAL if chosen.name != ORIGINAL else f"{ORIGINAL} model"
    return Candidate(name, build_engine(load_model(model), chosen.engine.backend, chosen.engine.options))


def _measure_row(
    candidates: Sequence[Candidate], samples: Dataset, latency: Any, accuracy: Any, workspace: Workspace
) -> Row:
    """Compares the last of the candidates with the first, shows that, and gives its row."""
    found = compare(candidates, samples, latency, accuracy=accuracy, workspace=workspace, progress=show_progress())
    name = candidates[-1].name
    if reason := found.failures.get(name):
        raise ModelError(f"{name} could not be measured: {reason}", "Mend that, or export it without --measure.")
    print(f"{report.comparison_text(found)}\n")
    return found[name]


def _numbers_text(candidate: Candidate, exporter: str, found: Measurements, samples: Dataset) -> str:
    """The package's numbers with what each comes from, and which of them are no measurements."""
    if found == Measurements():
        return "Nothing was measured, so that its numbers are usual values: --measure derives them."
    plan = plan_package(candidate, exporter, found, samples)
    usual = [key.replace("_", " ") for key, number in plan.numbers.items() if not number.measured]
    table = report.columns([("number", "value", "from"), *describe_plan(plan)], left=3)
    return f"\n{table}" + (f"\n\nUsual values, not measured: {', '.join(usual)}." if usual else "")
