"""Commands around engines: build one, look into it, load a saved one, build it several times."""

# No `from __future__ import annotations`: the signatures hold classes made at run time, which tyro reads.

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from workbench import engine_report, explorer_report, litert_export
from workbench._flags import Backend, Feed, Model, Root, Settings, flags, read_settings, show_progress
from workbench._measure_commands import EngineFlags
from workbench.backends import build_engine, check_build
from workbench.engine import BuildLog, unheard
from workbench.explorer import explore_engine
from workbench.importers import load_dataset, load_model
from workbench.measure.profile import ProfileOptions, profile_layers
from workbench.options import to_builtins
from workbench.plugins import find_plugin
from workbench.rebuilds import rebuild_engine
from workbench.report import format_size
from workbench.saved_engine import load_engine, save_engine
from workbench.workspace import Workspace

ProfileFlags: Any = flags(ProfileOptions)
Verbose = Annotated[bool, tyro.conf.arg(help="Print what the backend says while it builds.")]


def build_command(name: str) -> Callable[..., None]:
    """The command that builds engines on one backend."""
    kind: Any = flags(find_plugin("backends", name).Options)

    def command(
        model: Model,
        output: Annotated[Path | None, tyro.conf.arg(help="Folder to save it to; it must not exist yet.")] = None,
        options: Annotated[kind, tyro.conf.OmitArgPrefixes] = kind(),
        verbose: Verbose = False,
    ) -> None:
        loaded, chosen = load_model(model), to_builtins(options)
        if checks := engine_report.checks_text(check_build(loaded, name, chosen)):
            print(f"{checks}\n")
        engine = build_engine(loaded, name, chosen, progress=show_progress(), log=_log(verbose))
        print(engine_report.engine_text(engine))
        if output is not None:
            print(f"saved to {save_engine(engine, output)}")

    command.__doc__ = find_plugin("backends", name).__doc__
    return command


def engine(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="What `build --output` wrote.")],
    rebuild: Annotated[bool, tyro.conf.arg(help="Build it again from its model if it does not fit here.")] = False,
    verbose: Verbose = False,
) -> None:
    """Check whether a saved engine can be used on this machine, and show what it is and its layers."""
    loaded = load_engine(folder, rebuild=rebuild, progress=show_progress(), log=_log(verbose))
    if loaded.rebuilt:
        print(f"{loaded.rebuilt}\n")
    print(engine_report.engine_text(loaded.engine))
    if hasattr(find_plugin("backends", loaded.engine.backend), "optimized"):
        print(f"\n{explorer_report.engine_view_text(explore_engine(loaded.engine))}")


def explore(
    engine: Annotated[EngineFlags, tyro.conf.OmitArgPrefixes],
    measurement: Annotated[ProfileFlags, tyro.conf.OmitArgPrefixes] = ProfileFlags(),
    workspace: Root = None,
) -> None:
    """Show the layers that a backend made of a model, and what is wrong with them; with times where it runs here."""
    built, kept = engine.build(), Workspace(workspace)
    profile = profile_layers(
        built, to_builtins(measurement), dataset=engine.samples(), workspace=kept, progress=show_progress()
    )
    print(explorer_report.engine_view_text(explore_engine(built, profile=profile, workspace=kept)))


def rebuild(
    model: Model,
    backend: Backend = "tensorrt",
    settings: Settings = (),
    times: Annotated[int, tyro.conf.arg(help="How often it is built.")] = 3,
    data: Feed = "",
    workspace: Root = None,
    verbose: Verbose = False,
) -> None:
    """Build the same engine several times and compare: builders choose by timing, so engines differ."""
    found = rebuild_engine(
        load_model(model),
        backend,
        read_settings(settings),
        times=times,
        dataset=load_dataset(data, "evaluation") if data else None,
        workspace=Workspace(workspace),
        progress=show_progress(),
        log=_log(verbose),
    )
    print(engine_report.rebuilds_text(found))


def export_litert(
    factory: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(help="Function that builds the module, e.g. nets.py:build. It runs.")
    ],
    inputs: Annotated[tuple[str, ...], tyro.conf.arg(help="What it takes, e.g. 'image float32[1, 3, 224, 224]'.")],
    output: Annotated[Path, tyro.conf.arg(help="The .tflite file to write; nothing is overwritten.")],
    weights: Annotated[Path | None, tyro.conf.arg(help="A state_dict; the factory's own weights if not given.")] = None,
    int8: Annotated[
        Literal["none", "dynamic", "static"], tyro.conf.arg(help="dynamic: weights; static: activations too.")
    ] = "none",
    samples: Annotated[str, tyro.conf.arg(help="An .npz file to calibrate and to compare with.")] = "",
    python: Annotated[
        str, tyro.conf.arg(help=f"A Python that has litert-torch; ${litert_export.VARIABLE} if not given.")
    ] = "",
    verbose: Verbose = False,
) -> None:
    """Make a .tflite file of a PyTorch module with litert-torch, which lives in an environment of its own."""
    made = litert_export.export_litert(
        factory,
        weights,
        inputs,
        output,
        python=python,
        int8=None if int8 == "none" else int8,
        samples=load_dataset(samples, "calibration") if samples else None,
        progress=show_progress(),
        log=_log(verbose),
    )
    print(f"{output}  {format_size(made.size_bytes / 1e6)}")
    for error, span in zip(made.max_abs_errors, made.ranges, strict=True):
        print(f"  largest difference from PyTorch {error:.1g}, of values up to {span:.3g}")


def _log(verbose: bool) -> BuildLog:
    return (lambda line: print(line, file=sys.stderr)) if verbose else unheard
