"""What every importer must do, those of other packages too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.importer_tasks import refusals
from workbench import jobs
from workbench.errors import ModelError
from workbench.importers import load_model, model_suffixes
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins

NAMES = [plugin.name for plugin in list_plugins("importers") if plugin.available]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_the_file_explains_itself(name: str) -> None:
    plugin = find_plugin("importers", name)

    assert plugin.__doc__
    assert plugin.__doc__.splitlines()[0].endswith(".")
    assert isinstance(plugin.REQUIRES, dict)
    assert plugin.Options.__dataclass_params__.frozen
    assert [field.name for field in option_fields(plugin.Options) if not field.help] == []
    assert plugin.Options() == plugin.Options()


def test_its_suffixes_are_its_own(name: str) -> None:
    suffixes = find_plugin("importers", name).SUFFIXES

    assert suffixes
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)
    assert all(model_suffixes()[suffix] == name for suffix in suffixes)


JUNK = (b"", b"\0" * 64, b"plain text\n", b"PK\x03\x04", b"\x80\x04K\x01.", b"{}")


def test_what_is_no_model_is_refused_in_words(name: str, tmp_path: Path) -> None:
    plugin = find_plugin("importers", name)
    paths = []
    for number, content in enumerate(JUNK):
        for suffix in (*plugin.SUFFIXES, plugin.SUFFIXES[0].upper()):
            paths.append(tmp_path / f"file{number}{suffix}")
            paths[-1].write_bytes(content)

    # Importers that convert open files in a worker, which takes seconds to start: one is enough to see what they say.
    for path in paths[:1] if hasattr(plugin, "open_source") else paths:
        with pytest.raises(ModelError, match=path.name) as caught:
            load_model(path)
        assert caught.value.remedy
    if hasattr(plugin, "open_source"):
        for path, message, remedy in jobs.run(refusals, name, paths):
            assert path.name in message
            assert remedy


def test_a_missing_file_and_a_folder_are_refused_in_words(name: str, tmp_path: Path) -> None:
    suffix = find_plugin("importers", name).SUFFIXES[0]
    with pytest.raises(ModelError, match="There is no file"):
        load_model(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ModelError, match="folder"):
        load_model(tmp_path / f"folder{suffix}")
