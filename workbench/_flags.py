"""Flags of the command line: made from the Options dataclasses, and those that several commands share."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from workbench.errors import OptionsError
from workbench.jobs import Progress
from workbench.options import OptionField, option_fields

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="A model file, or sample:digits.")]
Samples = Annotated[str, tyro.conf.arg(help="Samples that score: an .npz file, or sample:digits.")]
Calibration = Annotated[str, tyro.conf.arg(help="Samples that set ranges; never those that score.")]
Root = Annotated[Path | None, tyro.conf.arg(help="Folder of results; $WORKBENCH_WORKSPACE if not given.")]
Threads = Annotated[int, tyro.conf.arg(help="Threads inside one operator; 0 takes every core.")]
Provider = Annotated[str, tyro.conf.arg(help="Execution provider of ONNX Runtime.")]
Backend = Annotated[str, tyro.conf.arg(help="What runs it; `workbench plugins` lists what there is.")]
Settings = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", help="Options of the backend, e.g. threads=1 precision=float32.")
]
Feed = Annotated[
    str, tyro.conf.arg(help="Samples to feed: an .npz file, or sample:digits; random values if not given.")
]


def flags(cls: type) -> Any:
    """An Options dataclass as tyro reads it."""
    fields = [
        (
            entry.name,
            Annotated[entry.type, tyro.conf.arg(help=_help(entry))],
            dataclasses.field(default=entry.default),
        )
        for entry in option_fields(cls)
    ]
    made = dataclasses.make_dataclass(cls.__qualname__, fields, frozen=True)
    made.__doc__ = cls.__doc__
    return made


def backend_options(backend: str, threads: int, provider: str) -> dict[str, Any]:
    """Options of a backend from the flags that several commands share."""
    given = {"threads": threads} if threads else {}  # not every backend has such an option
    return {**given, **({"provider": provider} if backend == "onnxruntime" else {})}


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Options given as `name=value`, each value as YAML would read it.

    Raises:
        OptionsError: One has no `=`, or a value that cannot be read.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name:
            raise OptionsError(f"'{setting}' is no option of a backend.", "Write it like threads=1.")
    return options


def _help(entry: OptionField) -> str:
    low, high, unit = entry.minimum, entry.maximum, entry.unit
    if low is not None and high is not None:
        span = f"{low:g} to {high:g} {unit}".strip()
    elif low is not None:
        span = f"at least {low:g} {unit}".strip()
    else:
        span = unit
    text = f"{entry.help} [{span}]" if span else entry.help
    return f"{text} E.g. {entry.example}" if entry.example else text


def show_progress() -> Progress:
    """One line that overwrites itself on a terminal; nothing elsewhere, so that logs stay readable."""

    def report(fraction: float, message: str) -> None:
        if sys.stderr.isatty():
            end = "\r" if fraction < 1 else "\n"
            print(f"\033[K{100 * fraction:3.0f} %  {message[:100]}", end=end, file=sys.stderr, flush=True)

    return report
