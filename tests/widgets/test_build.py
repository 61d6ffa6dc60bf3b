"""The Build panel: what it says before a build, the log meanwhile, and what comes of it, on real builds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from widgets import Build
from widgets._build_facts import checks_html, engine_name, precision_line
from widgets._build_log import LogView
from widgets._latest import Latest
from widgets._many import Lines, Ticks
from workbench.backends import build_engine
from workbench.engine import BuildCheck
from workbench.errors import ModelError, OptionsError
from workbench.graph import summarize_graph
from workbench.importers import load_model
from workbench.model import Model
from workbench.workspace import ROOT_VARIABLE, Workspace


@pytest.fixture(scope="module")
def own_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Where nobody else has built anything."""
    return Workspace(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def panel(digits: Model, own_workspace: Workspace) -> Iterator[Build]:
    """The bundled model, built for a GPU that is not here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(own_workspace.root))
        build = Build(model=digits, workspace=own_workspace)
        build.options.set({"targets": ["SM89"]})
        build.start().wait()
        yield build
    build.close()


@pytest.fixture
def beside_it(monkeypatch: pytest.MonkeyPatch, own_workspace: Workspace) -> None:
    """Engines go where the panel's went."""
    monkeypatch.setenv(ROOT_VARIABLE, str(own_workspace.root))


@pytest.fixture
def sequence(tmp_path: Path) -> Model:
    """A model with two dynamic axes."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", ends[:1], ends[1:])
    path = tmp_path / "sequence.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def test_what_was_built_is_kept_and_described(panel: Build, digits: Model) -> None:
    [(name, engine)] = panel.engines
    assert name == "original · tensorrt · SM89"
    assert (engine.model, engine.options["targets"]) == (digits, ["SM89"])
    shown = panel.summary()
    assert "than the ONNX model" in shown
    assert "<td>SM89</td>" in shown
    assert f'title="{engine.path}"' in shown  # a tooltip, not a path across the page
    assert "found in the workspace" not in shown


def test_the_log_shows_the_last_line_and_all_when_it_is_opened(panel: Build) -> None:
    log = panel.log_view
    assert len(log.lines) > 10
    assert log.lines[-1].split()[0] in log._last.value
    assert log._all.value == ""
    log.unfold.value = True
    assert log._all.value.count("\n") >= len(log.lines) - 1
    log.unfold.value = False


@pytest.mark.usefixtures("beside_it")
def test_what_was_built_before_is_found_again(panel: Build, digits: Model, own_workspace: Workspace) -> None:
    again = Build(model=digits, workspace=own_workspace)
    again.options.set({"targets": ["SM89"]})
    again.start().wait()
    assert "found in the workspace" in again.summary()
    assert again.engines == panel.engines


def test_what_is_compiled_when_it_is_opened_says_so(digits: Model) -> None:
    panel = Build(model=digits)
    panel.backend.value = "onnxruntime"
    panel.start().wait()
    assert "compiles it when it is opened" in panel.summary()
    assert panel.engines[0][0] == "original · onnxruntime"


def test_checks_follow_the_options(digits: Model) -> None:
    panel = Build(model=digits)
    assert not [check for check in panel.wait_for_checks() if check.verdict == "refused"]
    panel.options["targets"].value = ("SM75",)
    [refused] = [check for check in panel.wait_for_checks() if check.verdict == "refused"]
    assert "SM75 has no matrix products in float32" in refused.what
    assert "SM75" in panel._before.value
    panel.backend.value = "onnxruntime"
    panel.wait_for_checks()
    assert "The model computes in float32." in panel._before.value


def test_an_option_that_is_refused_is_a_check(digits: Model) -> None:
    panel = Build(model=digits)
    panel.options["profiles"].value = ("image: 1x1x32x32",)
    assert [check.verdict for check in panel.wait_for_checks() if "cannot be read" in check.what] == ["refused"]
    with pytest.raises(OptionsError, match="cannot be read"):
        panel.start().wait()
    assert panel.engines == ()


def test_a_refused_build_says_why_and_keeps_nothing(digits: Model) -> None:
    panel = Build(model=digits)
    panel.options.set({"targets": ["SM75"]})
    with pytest.raises(ModelError, match="SM75"):
        panel.start().wait()
    assert (panel.state, panel.engines) == ("failed", ())


def test_a_cancel_keeps_nothing(digits: Model, default_workspace: Path) -> None:
    panel = Build(model=digits)
    panel.start()
    panel.cancel()
    assert panel.wait(60).state == "cancelled"
    assert panel.engines == ()
    assert list(default_workspace.glob("engines/*")) == []


def test_a_profile_is_proposed_where_more_than_the_batch_is_dynamic(digits: Model, sequence: Model) -> None:
    panel = Build(model=sequence)
    assert panel.options.values["profiles"] == ["x: 1x1x8 1x128x8 32x512x8"]
    assert not [check for check in panel.wait_for_checks() if check.verdict == "refused"]
    panel.model = digits
    assert panel.options.values["profiles"] == []


@pytest.mark.usefixtures("beside_it")
def test_shown_python_builds_the_same(panel: Build, digits: Model, capsys: pytest.CaptureFixture[str]) -> None:
    python, recipe = panel.code()
    names = {"model": digits}
    exec(python, names)
    assert names["engine"] == panel.engines[0][1]
    assert "workbench build tensorrt MODEL.onnx --targets SM89" in python
    assert recipe == "backend: tensorrt\noptions:\n  targets:\n  - SM89\n"
    assert "built in" in capsys.readouterr().out


def test_variants_can_be_built_and_another_model_forgets_them(panel: Build, digits: Model, tiny: Model) -> None:
    other = Build(model=digits, variants=(("small", tiny),))
    other.variant.value, other.backend.value = "small", "onnxruntime"
    other.start().wait()
    [(name, engine)] = other.engines
    assert (name, engine.model) == ("small · onnxruntime", tiny)
    assert "variants['small']" in other.code()[0]
    other.model = tiny
    assert other.engines == ()


def test_building_nothing_says_what_comes_first() -> None:
    with pytest.raises(ModelError, match="Load one first"):
        Build().start().wait()


def test_engines_that_differ_in_options_only_are_numbered(digits: Model) -> None:
    first, second = (build_engine(digits, "onnxruntime", {"threads": threads}) for threads in (1, 2))
    assert engine_name("original", second, [("original · onnxruntime", first)]) == "original · onnxruntime (2)"
    assert engine_name("original", first, [("original · onnxruntime", first)]) == "original · onnxruntime"


def test_what_is_refused_is_said_first() -> None:
    checks = [BuildCheck("ok", "fine"), BuildCheck("refused", "<no>", "do this"), BuildCheck("doubt", "perhaps")]
    shown = checks_html("float32", checks)
    assert shown.index("&lt;no&gt;") < shown.index("perhaps") < shown.index("fine")
    assert "→ do this" in shown


def test_the_precision_is_that_of_the_multiply_accumulates(digits: Model) -> None:
    assert precision_line(summarize_graph(digits)) == "float32"


def test_a_long_log_keeps_its_end_and_counts_the_rest() -> None:
    log = LogView()
    log.unfold.value = True
    for number in range(1000):
        log.say(f"<{number}>")
    log.flush(force=True)
    assert "&lt;999&gt;" in log._last.value
    assert "… 800 lines before" in log._all.value
    log.clear()
    assert (log.lines, log._last.value, log.layout.display) == ((), "", "none")


def test_only_the_last_of_many_requests_is_shown() -> None:
    shown: list[int] = []
    latest: Latest[int] = Latest(shown.append)
    gate = threading.Event()
    latest.ask(lambda: gate.wait(60) and 1)
    for number in (2, 3, 4):
        latest.ask(lambda number=number: number)
    gate.set()
    latest.wait(60)
    assert shown == [4]


def test_ticks_and_lines_hold_several_values() -> None:
    ticks = Ticks("Targets", ("a", "b", "c"), ("b",))
    ticks.value = ("c", "a")
    ticks._ticks["b"].value = True
    assert ticks.value == ("a", "b", "c")
    lines = Lines("Profiles", ("x: 1, 2",))
    lines._box.value = "\n one \n\ntwo"
    assert lines.value == ("one", "two")
    lines.value = ("three",)
    assert lines._box.value == "three"
