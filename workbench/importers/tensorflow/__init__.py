"""TensorFlow: SavedModel folders and frozen graphs (.pb)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from workbench.dataset import Dataset
from workbench.errors import ModelError, OptionsError
from workbench.importers._source import Source
from workbench.importers._tensorflow.safety import check_graph, saver_parts
from workbench.importers._tensorflow.source import FunctionSource, TensorFlowOptions, own_inputs, start_tensorflow
from workbench.importers.tensorflow.files import check_folder, graph_kind
from workbench.importers.tensorflow.frozen import open_frozen
from workbench.model_file import check_file
from workbench.options import option, suggest

SUFFIXES = (".pb",)
FOLDERS = ("saved_model.pb",)
PARTS = (*FOLDERS, "variables", "assets", "assets.extra", "fingerprint.pb")  # other files of the folder are not read
REQUIRES = {"tensorflow": "tensorflow", "tf2onnx": "tensorflow"}


@dataclass(frozen=True)
class Options(TensorFlowOptions):
    """How to read the model."""

    signature: Annotated[
        str, option("SavedModel: signature to convert; serving_default, or the only one, if empty.")
    ] = ""
    tags: Annotated[
        str, option("SavedModel: tags of the graph to convert, with commas; 'serve' if empty.", advanced=True)
    ] = ""
    inputs: Annotated[
        str,
        option("Frozen graph: names of its inputs, with commas and shapes if need be.", example="x[-1,28,28,1]"),
    ] = ""
    outputs: Annotated[str, option("Frozen graph: names of its outputs, with commas.")] = ""


def open_source(path: Path, options: Options, samples: Dataset | None, trust: bool) -> Source:
    """Opens a SavedModel or a frozen graph after its operators were checked."""
    if path.is_dir():
        return _open_saved_model(path, options, samples, trust)
    check_file(path)
    if graph_kind(path) == "saved_model":
        raise ModelError(
            f"{path} is the saved_model.pb of a SavedModel under another name.",
            "Put it back into its folder, beside 'variables', as saved_model.pb, and give the folder.",
        )
    return open_frozen(path, options.inputs, options.outputs, options, samples, trust)


def _open_saved_model(folder: Path, options: Options, samples: Dataset | None, trust: bool) -> Source:
    file = folder / "saved_model.pb"
    check_file(file)
    if graph_kind(file) != "saved_model":
        raise ModelError(
            f"{file} holds a frozen graph, not a SavedModel.", "Rename it, e.g. to frozen.pb, and give that file."
        )
    tf = start_tensorflow()
    meta_graph = _meta_graph(file, options.tags)
    name = _signature(folder, meta_graph, options.signature)
    check_folder(folder, meta_graph)
    check_graph(str(folder), meta_graph.graph_def, trust, saver_parts(meta_graph))
    tags = list(meta_graph.meta_info_def.tags)
    imported = tf.saved_model.load(str(folder), tags=tags)
    function = imported.signatures[name]
    inputs = dict(zip(function._arg_keywords, own_inputs(function), strict=True))
    outputs = dict(zip(sorted(function.structured_outputs), function.outputs, strict=True))

    def run(feed: Any) -> list[Any]:
        given = function(**{key: tf.constant(value) for key, value in feed.items()})
        return [given[key].numpy() for key in outputs]

    framework = f"TensorFlow {tf.__version__}"
    source = FunctionSource(str(folder), framework, function, imported, inputs, outputs, run, options, samples)
    others = sorted(set(_signatures(meta_graph)) - {name})
    if others:
        source.notes.append(f"Signature '{name}' is converted; there are also {', '.join(others)}.")
    return source


def _meta_graph(file: Path, wanted: str) -> Any:
    """The graph of a SavedModel that has these tags; there is one for each use, mostly one only."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString(file.read_bytes())
    except DecodeError:
        raise ModelError(f"{file} is damaged, or only a part of a SavedModel.", "Copy or save it again.") from None
    graphs = {",".join(graph.meta_info_def.tags): graph for graph in proto.meta_graphs}
    if not graphs:
        raise ModelError(f"{file} holds no graph.", "Copy or save it again.")
    chosen = ",".join(part.strip() for part in wanted.split(",")) if wanted else "serve"
    if not wanted and len(graphs) == 1:
        [chosen] = graphs
    if chosen not in graphs:
        raise OptionsError(
            f"{file.parent} has no graph with the tags '{chosen}'.",
            f"Set the option `tags`. {suggest('', list(graphs))}",
        )
    return graphs[chosen]


def _signatures(meta_graph: Any) -> list[str]:
    """Names of the signatures that compute something."""
    return [name for name in meta_graph.signature_def if not name.startswith("__")]


def _signature(folder: Path, meta_graph: Any, wanted: str) -> str:
    names = sorted(_signatures(meta_graph))
    if not names:
        raise ModelError(
            f"{folder} has no signature, so nothing says what goes in and what comes out.",
            "Save it again with `signatures=`, or with Keras' model.export(folder).",
        )
    if wanted and wanted not in names:
        raise OptionsError(f"{folder} has no signature '{wanted}'.", suggest(wanted, names))
    if not wanted and "serving_default" not in names and len(names) > 1:
        raise OptionsError(
            f"{folder} has several signatures and none is serving_default.",
            f"Set the option `signature`. Known: {', '.join(names)}.",
        )
    return wanted or ("serving_default" if "serving_default" in names else names[0])
