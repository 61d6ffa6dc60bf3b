"""Models in other formats, made once for the whole run in processes of their own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def run_beside(script: str, *arguments: Path) -> None:
    """Runs a script of this folder."""
    paths = os.pathsep.join((str(HERE), str(HERE.parents[1])))
    environment = {**os.environ, "PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.fixture(scope="session")
def tensorflow_made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: the files of `tensorflow_models.py`, and what came of them in `tensorflow_cases.py`."""
    pytest.importorskip("tf2onnx")
    files, answers = tmp_path_factory.mktemp("tensorflow"), tmp_path_factory.mktemp("answers")
    run_beside("tensorflow_cases.py", files, answers)
    return files, answers


@pytest.fixture(scope="session")
def tensorflow_files(tensorflow_made: tuple[Path, Path]) -> Path:
    """The folder that `tensorflow_models.py` fills."""
    return tensorflow_made[0]


@pytest.fixture(scope="session")
def tensorflow_answers(tensorflow_made: tuple[Path, Path]) -> Mapping[str, Any]:
    """What came of every case in `tensorflow_cases.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        answers: Mapping[str, Any] = pickle.loads((tensorflow_made[1] / "answers.pickle").read_bytes())  # our own
    return answers
