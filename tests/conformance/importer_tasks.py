"""What the worker of test_importers.py runs: frameworks start once for many files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import ModelError
from workbench.importers._convert import open_file
from workbench.jobs import Progress
from workbench.plugins import find_plugin


def refusals(name: str, paths: Sequence[Path], progress: Progress) -> list[tuple[Path, str, str]]:
    """Message and remedy for each file; both are empty where one was taken."""
    found = []
    options = find_plugin("importers", name).Options()
    for path in paths:
        try:
            open_file(name, path, options)
            found.append((path, "", ""))
        except ModelError as error:
            found.append((path, error.message, error.remedy))
    return found
