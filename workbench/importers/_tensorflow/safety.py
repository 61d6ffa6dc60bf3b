"""Finds operators of a TensorFlow graph that could reach beyond it, before the graph is loaded.

A graph is a program: it can read and write files, open connections and call Python. TensorFlow marks what has effects
as stateful, so of the stateful operators only families known to stay inside the graph pass, new ones wait to be
added here, and the few unmarked operators that touch files are named one by one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from workbench.errors import TRUST, ModelError
from workbench.importers._tensorflow.words import listed
from workbench.model_file import shown

# Stateful, yet inside the graph: variables, tables held in memory, random numbers, control flow, checks.
_INSIDE = re.compile(
    r"""
    VarHandleOp|_VarHandlesOp|VariableV?2?|VariableShape|VarIsInitializedOp|TemporaryVariable|DisableCopyOnRead
    |ReadVariableOp|_ReadVariablesOp|Assign(Add|Sub)?VariableOp|DestroyResourceOp
    |Resource(Sparse)?(Gather|GatherNd|Scatter\w*|StridedSliceAssign|Apply\w*)
    |(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|LookupTable(Find|Size|Export|Import|Insert|Remove)V2
    |InitializeTableV2|TensorArray\w*|Stack(Push|Pop|Close)?(V2)?|_?If|_?While|Case|StatefulPartitionedCall|_Arg|_Retval
    |(Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Crop|Poisson|PoissonV2)|(Parameterized)?TruncatedNormal)
    |Multinomial|Stateful(Uniform|UniformInt|UniformFullInt|StandardNormal|StandardNormalV2|TruncatedNormal|RandomBinomial)
    |Rng(Skip|ReadAndSkip)|StatelessRandomGetAlg|NonDeterministicInts|SampleDistortedBoundingBox(V2)?
    |CudnnRNN(V[23])?|GuaranteeConst|Empty|CheckNumerics(V2)?|Assert|Print|DeviceIndex
    """,
    re.VERBOSE,
)
# Not stateful, yet outside: files, debuggers that write to addresses, foreign code.
_OUTSIDE = re.compile(
    r"""
    ReadFile|MatchingFiles|InitializeTableFromTextFile(V2)?|GenerateVocabRemapping|PyFunc\w*|Reader\w*
    |\w*Snapshot\w*|CacheDataset\w*|DatasetFromGraph|RegisterDataset\w*|Debug\w+|Copy(Host)?|(De|En)codeProto(V2)?
    |MlirPassthroughOp|RemoteFusedGraphExecute|Xla(CustomCall)\w*|\w*Rpc\w*|\w*Py[Ff]unc\w*
    """,
    re.VERBOSE,
)
_RESTORE = {"RestoreV2", "Restore"}  # a checkpoint into variables, which is what loading is
_SAVE = {*_RESTORE, "SaveV2", "MergeV2Checkpoints"}  # never run by loading


def check_graph(where: str, graph: Any, trust: bool, allowed: Mapping[str, Collection[str]] | None = None) -> None:
    """Refuses a graph with operators that could reach beyond it, or that TensorFlow does not have.

    Args:
        where: The file, for the message.
        graph: A `GraphDef`.
        trust: Whether the user vouches for the file.
        allowed: Node or function → operators that may stand there, as `saver_parts` gives them.

    Raises:
        ModelError: The message names the operators and where they stand.
    """
    stateful, functions = _registered(), {function.signature.name for function in graph.library.function}
    found, unknown = set(), set()
    for place, node in _nodes(graph):
        if node.op not in stateful and node.op not in functions:
            unknown.add(node.op)
        elif _reaches_out(node, stateful.get(node.op, False)) and node.op not in (allowed or {}).get(place, ()):
            found.add(f"{node.op} ('{node.name}')")
    if unknown:
        raise ModelError(
            f"{where} uses operators that TensorFlow does not have: {listed(unknown)}.",
            "They come from a library of its own: convert it where that library is installed, "
            "or replace them before saving.",
        )
    if found and not trust:
        raise ModelError(
            f"{where} holds operators that can reach files, the network or code outside the model: {listed(found)}.",
            f"Save the model without them (usually steps before or after it); if it is your own, use {TRUST}.",
        )


def check_op(where: str, name: str, trust: bool) -> None:
    """Refuses one TensorFlow operator that another format carries, as `check_graph` does.

    Raises:
        ModelError: It could reach beyond the graph.
    """
    stateful = _registered().get(name, False)
    if not trust and (_OUTSIDE.fullmatch(name) or (stateful and not _INSIDE.fullmatch(name))):
        raise ModelError(
            f"{where} holds an operator that can reach files, the network or code outside the model: {shown(name)}.",
            f"Save the model without it; if it is your own, use {TRUST}.",
        )


def saver_parts(meta_graph: Any) -> dict[str, set[str]]:
    """Nodes and functions of a SavedModel that only keep and restore its checkpoint → what may stand in them.

    What also runs when the model runs is not among them, and what loading runs may only restore.
    """
    graph, saver = meta_graph.graph_def, meta_graph.saver_def
    running = {info.name for signature in meta_graph.signature_def.values() for info in signature.outputs.values()}
    running |= {name for entry in meta_graph.collection_def.values() for name in entry.node_list.value}
    run_nodes = _upstream(graph, running)
    restore_nodes = _upstream(graph, {saver.restore_op_name}) - run_nodes
    save_nodes = _upstream(graph, {saver.save_tensor_name}) - run_nodes - restore_nodes
    others = {node.name for node in graph.node} - restore_nodes - save_nodes
    run = _called(graph, others, meta_graph.object_graph_def.concrete_functions)
    restore = restore_nodes | (_called(graph, restore_nodes) - run)
    save = save_nodes | (_called(graph, save_nodes) - run - restore)
    return {**dict.fromkeys(save, _SAVE), **dict.fromkeys(restore, _RESTORE)}


def _reaches_out(node: Any, stateful: bool) -> bool:
    if node.op == "PrintV2":
        return bool(node.attr["output_stream"].s.startswith(b"file:"))
    return bool(_OUTSIDE.fullmatch(node.op)) or (stateful and not _INSIDE.fullmatch(node.op))


def _registered() -> dict[str, bool]:
    """Every operator of this TensorFlow, and whether it is stateful."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {op.name: op.is_stateful for op in ops.op}


def _nodes(graph: Any) -> Iterator[tuple[str, Any]]:
    """Every node with the name of its place: its own in the graph, the function's in a function."""
    for node in graph.node:
        yield node.name, node
    for function in graph.library.function:
        for node in function.node_def:
            yield function.signature.name, node


def _upstream(graph: Any, tensors: Iterable[str]) -> set[str]:
    """Names of the nodes of the graph that these tensors or nodes depend on, with themselves."""
    inputs = {node.name: node.input for node in graph.node}
    found: set[str] = set()
    waiting = [_node_of(name) for name in tensors]
    while waiting:
        name = waiting.pop()
        if name in inputs and name not in found:
            found.add(name)
            waiting += [_node_of(source) for source in inputs[name]]
    return found


def _called(graph: Any, nodes: Collection[str], functions: Iterable[str] = ()) -> set[str]:
    """Names of the functions that these nodes and functions call, through others too."""
    bodies = {function.signature.name: function.node_def for function in graph.library.function}
    found: set[str] = set()
    waiting = [*functions, *(name for node in graph.node if node.name in nodes for name in _names_in(node))]
    while waiting:
        name = waiting.pop()
        if name in bodies and name not in found:
            found.add(name)
            waiting += [called for node in bodies[name] for called in _names_in(node)]
    return found


def _names_in(node: Any) -> Iterator[str]:
    yield node.op  # a function can be called by its name as an operator
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
