"""Commands made from plugins: one subcommand each, with the flags of the plugin's own Options."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from workbench import model_report, report
from workbench._flags import Calibration, Model, Provider, Root, Threads, flags, show_progress
from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.errors import ModelError
from workbench.exporters import export_package
from workbench.importers import importer_for, load_dataset, load_model
from workbench.options import to_builtins
from workbench.plugins import find_plugin
from workbench.provenance import PASSWORD_VARIABLE, fingerprint_of
from workbench.saving import save_model
from workbench.serving_measure import MeasureServingOptions, measure_serving
from workbench.serving_plan import Measurements
from workbench.transforms import transform
from workbench.workspace import Workspace

ServingFlags: Any = flags(MeasureServingOptions)
Output = Annotated[Path, tyro.conf.arg(help="Where to write the result; nothing is overwritten.")]
Trust = Annotated[bool, tyro.conf.arg(help="Let the file run code of its own; only for files of your own.")]
SignKey = Annotated[
    Path | None,
    tyro.conf.arg(
        help=f"Private key (PEM, elliptic curve) to sign with; its password is read from ${PASSWORD_VARIABLE}."
    ),
]
Compare = Annotated[str, tyro.conf.arg(help="Samples to compare the original and its ONNX model on.")]


def import_command(name: str) -> Callable[..., None]:
    """The command that converts files of one format to ONNX."""
    kind: Any = flags(find_plugin("importers", name).Options)

    def command(
        source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="The trained model: a file or a folder.")],
        output: Output,
        samples: Compare = "",
        trust: Trust = False,
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
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
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
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
        model: Model,
        sample: Annotated[str, tyro.conf.arg(help="Samples; the first becomes the sample request.")],
        directory: Annotated[Path, tyro.conf.arg(help="Folder that does not exist yet.")],
        threads: Threads = 0,
        provider: Provider = "CPUExecutionProvider",
        measure: Annotated[bool, tyro.conf.arg(help="Measure first, so that its numbers are derived.")] = False,
        measurement: ServingFlags = ServingFlags(),
        sign_key: SignKey = None,
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
        workspace: Root = None,
    ) -> None:
        loaded = load_model(model)
        engine = build_engine(loaded, options={"threads": threads, "provider": provider})
        samples, kept = load_dataset(sample, "evaluation"), Workspace(workspace)
        measured = None
        if measure:
            wanted = to_builtins(measurement)
            curve, swept = measure_serving(engine, samples, wanted, workspace=kept, progress=show_progress())
            measured = Measurements(None, curve, swept)
        package = export_package(
            Candidate(loaded.name, engine),
            name,
            to_builtins(options),
            sample=samples,
            measured=measured,
            directory=directory,
            sign_key=sign_key,
            workspace=kept,
            progress=show_progress(),
        )
        print(package.directory)
        if package.command:
            print(f"Start it there: {' '.join(package.command)}")
        print(f"Fingerprint: sha256:{fingerprint_of(package.directory)}")

    command.__doc__ = find_plugin("exporters", name).__doc__
    return command
