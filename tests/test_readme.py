"""What the README tells a user to type, typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.workspace import ROOT_VARIABLE

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Shell lines that need no file of the user's."""
    lines = (line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [line for line in lines if line.startswith(".venv/bin/") and "model.onnx" not in line]


def test_the_python_example_runs(tmp_path: Path) -> None:
    [example] = [block for block in blocks("python") if "import workbench" in block]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "as expected" in done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all commands, as a user has: what one wrote is there for those that follow it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "notebooks").symlink_to(REPOSITORY / "notebooks")
    (folder / "runs").mkdir()
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize("line", commands())
def test_documented_commands_run(line: str, checkout: Path) -> None:
    words = shlex.split(line.replace(".venv/bin/", f"{Path(sys.executable).parent}/"))
    environment = {**os.environ, ROOT_VARIABLE: str(checkout / "workspace")}
    done = subprocess.run(words, capture_output=True, text=True, cwd=checkout, timeout=150, env=environment)
    assert done.returncode == 0, done.stderr


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named <= targets
