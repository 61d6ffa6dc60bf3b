"""Runs a script in another Python, whose packages this one need not have; a script imports nothing of the workbench."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import BuildError, OptionsError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SECONDS = 60  # to tell which packages it has


@dataclass(frozen=True)
class Outcome:
    """What a script said.

    Attributes:
        result: What it wrote, e.g. `{"problem": "…"}`; empty if it broke before.
        lines: What it printed.
        code: How it ended; 0 is well.
    """

    result: Mapping[str, Any]
    lines: tuple[str, ...]
    code: int


def find_packages(python: str, modules: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Finds which packages a Python has, without importing them.

    Args:
        python: Path of it; this one if empty.
        modules: By module, the packages that may bring it.

    Returns:
        By module the version of its package; empty where the Python lacks it.

    Raises:
        OptionsError: There is no such Python.
    """
    if not python:
        return _versions({name: list(packages) for name, packages in modules.items()})
    code = f"{inspect.getsource(_versions)}\nimport json, sys\nprint(json.dumps(_versions(json.loads(sys.argv[1]))))"
    try:
        done = subprocess.run(
            [str(Path(python).expanduser()), "-I", "-c", code, json.dumps(modules, default=list)],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            env=_environment(None),
        )
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        raise OptionsError(
            f"{python} is no Python that can be started here.",
            "Give the path of an environment's own, e.g. litert-env/bin/python.",
        ) from None
    return found


def _versions(modules: dict[str, list[str]]) -> dict[str, str]:
    """Its source runs in other Pythons too."""
    import importlib.metadata
    import importlib.util

    found: dict[str, str] = {}
    for module, packages in modules.items():
        found[module] = ""
        if importlib.util.find_spec(module) is not None:
            for package in packages:
                try:
                    found[module] = importlib.metadata.version(package)
                    break
                except importlib.metadata.PackageNotFoundError:
                    pass
            else:
                found[module] = "unknown"
    return found


def run_script(
    python: str, script: Path, request: Mapping[str, Any], folder: Path, tell: Callable[[str], object]
) -> Outcome:
    """Runs a script and waits for its end; whoever ends this process and its children ends it too.

    Args:
        python: Path of the Python; this one if empty.
        script: A file that reads its request from the file that its first argument names, and writes what came of it
            as JSON into the one that its second names.
        request: What it is to do.
        folder: Where it may write; its temporary files, and settings that libraries keep in the home folder, go there.
        tell: Called with each line that it prints.

    Raises:
        BuildError: It was ended by the system.
    """
    asked, answered = folder / "request.json", folder / "result.json"
    asked.write_text(json.dumps(request, default=str))
    # Isolated, since the script's folder and ours must not stand in for modules of the other Python.
    command = [str(Path(python or sys.executable).expanduser()), "-I", "-u", str(script), str(asked), str(answered)]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        cwd=folder,
        env=_environment(folder),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text := _COLOURS.sub("", line).rstrip():
                lines.append(text)
                tell(text)
    if process.returncode < 0:
        raise BuildError(
            f"{script.stem.lstrip('_')} was ended by the system, most likely because memory ran out.",
            "Use a smaller model, or a machine with more memory.",
            "\n".join(lines),
        )
    result = json.loads(answered.read_text()) if answered.is_file() else {}
    return Outcome(result, tuple(lines), process.returncode)


def _environment(folder: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "ORT_DISABLE_TELEMETRY": "1"}
    quiet |= {"TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_BACKEND": "tensorflow"}
    places = dict.fromkeys(("TMPDIR", "KERAS_HOME", "XDG_CACHE_HOME"), str(folder)) if folder else {}
    return {**kept, **quiet, **places}
