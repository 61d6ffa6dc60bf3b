"""The workspace: nothing unfinished under a final name, nothing finished made twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.errors import WorkspaceError
from workbench.workspace import Workspace, fingerprint, new_directory, read_json, write_bytes, write_json


@dataclass(frozen=True)
class Answer:
    number: int
    place: Path = Path("here")


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_artifact_is_made_once(workspace: Workspace) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "weights").write_text("1")

    first = workspace.artifact("models", {"a": 1}, make)
    again = Workspace(workspace.root).artifact("models", {"a": 1}, make)
    other = workspace.artifact("models", {"a": 2}, make)

    assert first == again != other
    assert len(made) == 2
    assert contents(first) == ["key.json", "weights"]


def test_an_artifact_that_fails_leaves_nothing(workspace: Workspace) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        workspace.artifact("models", {}, make)
    assert contents(workspace.root) == []
    assert list((workspace.root / "tmp").iterdir()) == []


def test_two_that_make_the_same_artifact_at_once_both_get_it(workspace: Workspace) -> None:
    meeting = threading.Barrier(2)
    found: list[Path] = []

    def make(folder: Path) -> None:
        (folder / "weights").write_text("1")
        meeting.wait(60)  # both have it half-made

    threads = [threading.Thread(target=lambda: found.append(workspace.artifact("m", {}, make))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found[0] == found[1]
    assert contents(found[0]) == ["key.json", "weights"]


def test_a_result_is_computed_once_unless_asked_afresh(workspace: Workspace) -> None:
    numbers = iter([1, 2, 3])

    def compute() -> Answer:
        return Answer(next(numbers))

    assert workspace.result("answers", {"q": 1}, Answer, compute) == Answer(1)
    assert workspace.result("answers", {"q": 1}, Answer, compute) == Answer(1)
    assert workspace.result("answers", {"q": 1}, Answer, compute, fresh=True) == Answer(2)
    assert workspace.result("answers", {"q": 1}, Answer, compute) == Answer(2)


@pytest.mark.parametrize("damage", [b"", b'{"number": ', b'{"number": "one"}', b"\xff\xfe", b"[]", b"{}"])
def test_a_damaged_result_is_computed_again(workspace: Workspace, damage: bytes) -> None:
    workspace.result("answers", {}, Answer, lambda: Answer(1))
    [path] = (workspace.root / "answers").iterdir()
    path.write_bytes(damage)

    assert workspace.result("answers", {}, Answer, lambda: Answer(2)) == Answer(2)
    assert read_json(path, Answer) == Answer(2)


def test_a_key_depends_on_values_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_json_keeps_a_dataclass(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "answer.json", Answer(4, Path("/there")))
    assert read_json(tmp_path / "new" / "answer.json", Answer) == Answer(4, Path("/there"))


# --- interrupted and refused ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from workbench.workspace import Workspace

def finished(folder):
    (folder / "weights").write_text("1")

def killed(folder):
    (folder / "half").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)

workspace = Workspace(sys.argv[1])
workspace.artifact("models", {"number": 1}, finished)
workspace.artifact("models", {"number": 2}, killed)
"""


def test_a_killed_process_loses_nothing_that_had_finished(tmp_path: Path) -> None:
    root = tmp_path / "w"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in root.rglob("half")] == ["half"]
    assert len(list((root / "models").iterdir())) == 1

    workspace = Workspace(root)
    made: list[Path] = []
    for number in (1, 2):
        workspace.artifact("models", {"number": number}, made.append)

    assert len(made) == 1  # the first had finished
    assert not list(root.rglob("half"))
    assert not list((root / "tmp").iterdir())


def test_what_a_live_process_makes_is_not_swept(workspace: Workspace) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("1")
        Workspace(workspace.root)
        assert (folder / "half").exists()

    workspace.artifact("models", {}, make)


def test_a_workspace_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match=r"file/workspace cannot be written: not a directory.*Choose a folder"):
        Workspace(tmp_path / "file" / "workspace")


def test_a_workspace_where_nobody_may_write() -> None:
    with pytest.raises(WorkspaceError, match="/proc/workspace cannot be written"):
        Workspace("/proc/workspace")


def test_a_workspace_without_permission(
    tmp_path: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with without_rights(), pytest.raises(WorkspaceError, match="cannot be written: permission denied"):
        Workspace(locked / "workspace")


def test_a_folder_that_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(WorkspaceError, match="mine"), new_directory(tmp_path / "mine") as folder:
        (folder / "package").write_text("new")

    assert contents(tmp_path) == ["mine/notes"]


FULL = """
import resource, sys
from pathlib import Path
from workbench.errors import WorkspaceError
from workbench.workspace import Workspace, new_directory, write_bytes, writing

folder = Path(sys.argv[1])
write_bytes(folder / "mine", b"as it was")
workspace = Workspace(folder / "w")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # every larger file meets a full disk

def fill(target):
    with writing(target):
        target.write_bytes(bytes(200_000))

def make(target):
    fill(target / "weights")

def directory():
    with new_directory(folder / "package") as target:
        make(target)

for attempt in (
    lambda: write_bytes(folder / "mine", bytes(200_000)),
    lambda: workspace.artifact("models", {}, make),
    lambda: workspace.result("results", {}, str, lambda: "x" * 200_000),
    directory,
):
    try:
        attempt()
    except WorkspaceError as error:
        print(error)
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)

    messages = ended.stdout.splitlines()
    assert len(messages) == 4
    assert all("the disk is full. Free some space" in message for message in messages)
    assert contents(tmp_path) == ["mine"]
    assert (tmp_path / "mine").read_bytes() == b"as it was"


def test_a_device_without_space(tmp_path: Path) -> None:
    """`/dev/full` answers as a full disk does, for any user."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(WorkspaceError, match="the disk is full"):
        write_json_in_place(tmp_path / "full")


def write_json_in_place(path: Path) -> None:
    from workbench.workspace import writing

    with writing(path), path.open("wb") as stream:
        stream.write(bytes(10))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    write_bytes(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"new"
    assert contents(tmp_path) == ["file"]
