"""FilePick, without a browser: choosing, listing, and the upload protocol against good and bad pages."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from widgets._files import FilePick


class Page:
    """Stands in for the browser."""

    def __init__(self, pick: FilePick, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pick = pick
        self.replies: list[dict[str, Any]] = []
        monkeypatch.setattr(pick, "send", self.replies.append)

    def ask(self, do: str, *buffers: bytes, **values: Any) -> dict[str, Any]:
        self.pick._handle_custom_msg({"do": do, "id": "7", **values}, [memoryview(buffer) for buffer in buffers])
        [reply] = self.replies
        self.replies.clear()
        assert reply.pop("id") == "7"
        return reply

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        reply = self.ask("start", name=name, size=len(content))
        for offset in range(0, len(content), 4):
            reply = reply or self.ask("piece", content[offset : offset + 4], offset=offset)
        return reply or self.ask("end")


def names(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    home = tmp_path / "home"
    (home / "models" / "deep").mkdir(parents=True)
    (home / "models" / "b.onnx").write_bytes(b"12345")
    (home / "models" / "A.ONNX").write_bytes(b"1234567")
    (home / "models" / "notes.txt").write_text("")
    (home / "models" / ".hidden.onnx").write_text("")
    (tmp_path / "secret.onnx").write_bytes(b"secret")
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def uploads(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "uploads"


@pytest.fixture
def page(home: pathlib.Path, uploads: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(FilePick(suffixes=[".onnx"], uploads=uploads, max_bytes=1000), monkeypatch)


def test_a_relative_path_starts_at_the_working_directory(home: pathlib.Path, page: Page) -> None:
    assert page.ask("choose", path=" models/b.onnx ") == {}
    assert page.pick.path == str(home / "models" / "b.onnx")
    assert (page.pick.message, page.pick.error) == ("b.onnx, 5 B", "")


@pytest.mark.parametrize("path", ["home/models/b.onnx", "RTC:home/models/b.onnx", "RTC:/models/b.onnx"])
def test_a_path_from_the_file_browser_of_lab_is_found(home: pathlib.Path, page: Page, path: str) -> None:
    page.ask("choose", path=path)
    assert page.pick.path == str(home / "models" / "b.onnx")


@pytest.mark.parametrize(
    ("path", "words"),
    [("missing.onnx", "There is no file"), ("models", "is a folder"), ("models/notes.txt", "of another kind")],
)
def test_a_wrong_path_is_explained_and_leaves_nothing_chosen(page: Page, path: str, words: str) -> None:
    page.pick.choose("models/b.onnx")
    page.pick.choose(path)
    assert page.pick.path == ""
    assert words in page.pick.error


def test_an_empty_path_takes_the_choice_back(page: Page) -> None:
    page.pick.choose("models/b.onnx")
    page.pick.choose("")
    assert (page.pick.path, page.pick.message, page.pick.error) == ("", "", "")


def test_a_folder_can_be_chosen_where_that_is_wanted(home: pathlib.Path) -> None:
    pick = FilePick(folders=True)
    pick.choose("models")
    assert pick.path == str(home / "models")


def test_the_listing_has_folders_first_and_only_wanted_files(home: pathlib.Path, page: Page) -> None:
    listing = page.ask("list", path="models")
    rows = [(row["name"], row["folder"], row["size"]) for row in listing["entries"]]
    assert rows == [("deep", True, ""), ("A.ONNX", False, "7 B"), ("b.onnx", False, "5 B")]
    assert listing["path"] == str(home / "models")
    assert [crumb["path"] for crumb in listing["crumbs"]][-2:] == [str(home), str(home / "models")]


def test_the_listing_starts_at_the_working_directory(home: pathlib.Path, page: Page) -> None:
    assert page.ask("list", path="")["path"] == str(home)


def test_a_long_listing_is_cut_and_counted(home: pathlib.Path, page: Page) -> None:
    for number in range(600):
        (home / "models" / "deep" / f"{number}.onnx").touch()
    listing = page.ask("list", path="models/deep")
    assert (len(listing["entries"]), listing["more"]) == (500, 100)


def test_a_folder_that_cannot_be_read_is_explained(page: Page) -> None:
    assert "No such file" in page.ask("list", path="nowhere")["error"]
    assert page.pick.error == ""


@pytest.mark.parametrize("path", ["..", "../secret.onnx", "/", "models/../../secret.onnx", "link/secret.onnx"])
def test_nobody_leaves_the_root(
    home: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (home / "link").symlink_to(tmp_path)
    page = Page(FilePick(root=home), monkeypatch)
    assert "outside" in page.ask("list", path=path)["error"]
    page.ask("choose", path=path)
    assert page.pick.path == ""
    assert "outside" in page.pick.error


def test_breadcrumbs_end_at_the_root(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(FilePick(root=home), monkeypatch)
    assert [crumb["name"] for crumb in page.ask("list", path="models")["crumbs"]] == ["home", "models"]


def test_an_upload_arrives_whole_and_is_chosen(page: Page, uploads: pathlib.Path) -> None:
    assert page.upload("model.onnx", b"0123456789") == {}
    assert (uploads / "model.onnx").read_bytes() == b"0123456789"
    assert page.pick.path == str(uploads / "model.onnx")
    assert names(uploads) == ["model.onnx"]


def test_an_empty_file_can_be_uploaded(page: Page, uploads: pathlib.Path) -> None:
    assert page.upload("model.onnx", b"") == {}
    assert (uploads / "model.onnx").read_bytes() == b""


def test_nothing_has_the_final_name_before_the_end(page: Page, uploads: pathlib.Path) -> None:
    page.ask("start", name="model.onnx", size=8)
    page.ask("piece", b"0123", offset=0)
    assert not (uploads / "model.onnx").exists()
    assert page.pick.path == ""


def test_an_existing_file_is_never_overwritten(page: Page, uploads: pathlib.Path) -> None:
    for content in (b"first", b"second", b"third"):
        page.upload("model.v1.onnx", content)
    assert {path.name: path.read_bytes() for path in uploads.iterdir()} == {
        "model.v1.onnx": b"first",
        "model-2.v1.onnx": b"second",
        "model-3.v1.onnx": b"third",
    }
    assert page.pick.path == str(uploads / "model-3.v1.onnx")


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/model.onnx", "..\\..\\model.onnx", ".model.onnx", "...model.onnx", "mod\x00el.onnx"]
)
def test_a_name_cannot_lead_elsewhere(page: Page, uploads: pathlib.Path, name: str) -> None:
    page.upload(name, b"x")
    assert names(uploads) == ["model.onnx"]


@pytest.mark.parametrize("name", ["", "..", "../", ".", "\x00", " ", "a" * 300 + ".onnx", "model.exe", ".onnx"])
def test_a_name_that_cannot_be_used_is_refused(page: Page, uploads: pathlib.Path, name: str) -> None:
    assert page.upload(name, b"x")["error"]
    assert page.pick.error
    assert not uploads.exists()


def test_a_file_that_is_too_large_is_refused_at_once(page: Page, uploads: pathlib.Path) -> None:
    reply = page.ask("start", name="model.onnx", size=1001)
    assert "1.0 kB" in reply["error"]
    assert "type its path" in reply["error"]
    assert not uploads.exists()


@pytest.mark.parametrize("offset", [4, -4, 100])
def test_a_piece_in_the_wrong_order_ends_the_upload(page: Page, uploads: pathlib.Path, offset: int) -> None:
    page.ask("start", name="model.onnx", size=8)
    assert "wrong order" in page.ask("piece", b"0123", offset=offset)["error"]
    assert "was stopped" in page.ask("piece", b"0123", offset=0)["error"]
    assert "was stopped" in page.ask("end")["error"]
    assert names(uploads) == []


def test_more_than_announced_is_refused(page: Page, uploads: pathlib.Path) -> None:
    page.ask("start", name="model.onnx", size=2)
    assert page.ask("piece", b"0123", offset=0)["error"]
    assert names(uploads) == []


def test_an_upload_that_ends_too_early_is_refused(page: Page, uploads: pathlib.Path) -> None:
    page.ask("start", name="model.onnx", size=8)
    page.ask("piece", b"0123", offset=0)
    assert "only in part" in page.ask("end")["error"]
    assert names(uploads) == []
    assert page.pick.path == ""


@pytest.mark.parametrize("how", ["cancel", "another", "close"])
def test_a_stopped_upload_leaves_nothing_behind(page: Page, uploads: pathlib.Path, how: str) -> None:
    page.ask("start", name="model.onnx", size=8)
    page.ask("piece", b"0123", offset=0)
    if how == "cancel":
        page.ask("cancel")
    elif how == "another":
        page.upload("other.onnx", b"x")
    else:
        page.pick.close()
    assert names(uploads) == (["other.onnx"] if how == "another" else [])


def test_uploads_can_be_off(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Nothing can be uploaded" in Page(FilePick(), monkeypatch).upload("model.onnx", b"x")["error"]


@pytest.mark.parametrize(
    "request_", [{"do": "start"}, {"do": "start", "name": "a.onnx", "size": "many"}, {"do": "choose"}]
)
def test_nonsense_from_a_page_is_answered(page: Page, request_: dict[str, Any]) -> None:
    assert page.ask(**request_)["error"]


def test_unknown_requests_get_no_answer(page: Page) -> None:
    page.pick._handle_custom_msg({"do": "delete", "path": "models"}, [])
    assert page.replies == []


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        FilePick(filter="*.onnx")  # type: ignore[call-arg]
