"""Opens and runs MNN's sessions."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends._feeds import check_feed
from workbench.engine import Engine, Tensors
from workbench.errors import ModelError
from workbench.model import Model
from workbench.workspace import read_json

FACTS = "facts.json"
X86 = ("x86_64", "AMD64", "i686")

# By element type in the model: how MNN holds it, and MNN's name of that.
_KINDS = {
    **dict.fromkeys(("float16", "float32", "float64"), ("float32", "Halide_Type_Float")),
    **dict.fromkeys(("bool", "int16", "int32", "int64", "uint16"), ("int32", "Halide_Type_Int")),
    "uint8": ("uint8", "Halide_Type_Uint8"),
}
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Facts:
    """What the build saw of an engine.

    Attributes:
        layers: How many it runs.
        computes: Type that float layers are computed in, `f32`, `f16` or `bf16`.
    """

    layers: int
    computes: str


def load_runtime() -> Any:
    """Imports MNN without the line on the processor that it prints.

    `MNN.tools` is never imported: it installs a package that reports to MNN's makers.
    """
    if "MNN" not in sys.modules:
        with _printing_nowhere():
            import MNN
    import MNN

    return MNN


@contextlib.contextmanager
def _printing_nowhere() -> Iterator[None]:
    """Keeps what C code prints out of the program's own output."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


class Session:
    """One MNN session; its shapes follow what it is fed, which takes under a millisecond where a new session would
    pack all weights again.

    Args:
        engine: What to open.

    Raises:
        ModelError: MNN refuses the model.
    """

    def __init__(self, engine: Engine) -> None:
        mnn = load_runtime()
        self._mnn, self._model = mnn, engine.model
        self.net = mnn.Interpreter(str(engine.path))
        settings = {
            "backend": "CPU",
            "numThread": engine.options["threads"],
            "precision": engine.options["precision"],
        }
        with _printing_nowhere() if engine.options["precision"] != "normal" else contextlib.nullcontext():
            try:
                self.session = self.net.createSession(settings)
            except Exception as error:  # of the base class
                why = "it makes no session of it; the size of a tensor may depend on the values in another"
                raise self._refusal(why, "cannot open") from error
        self._inputs = self.net.getSessionInputAll(self.session)  # without those that nothing reads
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.copies: tuple[tuple[Callable[[Any], bool], Any], ...] = ()  # what copies an input, and the input

    def set_inputs(self, feed: Tensors) -> None:
        """Takes shapes and values over.

        Raises:
            ModelError: They do not fit the model, or do not fit into what MNN has for them.
        """
        check_feed(self._model, feed, "MNN")
        shapes = {name: feed[name].shape for name in self._inputs}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self.net.resizeTensor(self._inputs[name], shape)
            self.net.resizeSession(self.session)
            self._shapes = shapes
        given = {name: self._tensor(self._taken(name, feed[name])) for name in self._inputs}
        self.copies = tuple((self._inputs[name].copyFrom, tensor) for name, tensor in given.items())
        if not self._copy_inputs():
            self._shapes = {}
            sizes = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise self._refusal(f"with {sizes}, layers get shapes that they cannot have")

    def run(self, before: Any = None, after: Any = None) -> None:
        """Runs the model on the inputs that were set; MNN overwrites them as it runs, so they are copied each time.

        Args:
            before: Called before each layer with its inputs and itself.
            after: Called after it with its outputs and itself.

        Raises:
            ModelError: MNN fails.
        """
        self._copy_inputs()
        code = (
            self.net.runSessionWithCallBackInfo(self.session, before, after)
            if before
            else self.net.runSession(self.session)
        )
        if code:
            raise self._refusal(f"its session ends with error {code}")

    def _copy_inputs(self) -> bool:
        return all(copy(tensor) for copy, tensor in self.copies)

    def output(self, name: str) -> NDArray[Any]:
        """A copy of an output as the model has it: row by row, whatever the layout inside, and in the model's type."""
        spec = next(spec for spec in self._model.outputs if spec.name == name)
        inner = self.net.getSessionOutput(self.session, name)
        held = np.empty(inner.getShape(), _KINDS[spec.dtype][0])
        host = self._tensor(held)
        inner.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(held.shape).astype(spec.dtype)

    def _tensor(self, array: NDArray[Any]) -> Any:
        kind = next(kind for held, kind in _KINDS.values() if held == array.dtype)
        row_by_row = self._mnn.Tensor_DimensionType_Caffe
        return self._mnn.Tensor(array.shape, getattr(self._mnn, kind), array, row_by_row)

    def _taken(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """The values in the type that MNN has for them."""
        held = _KINDS[str(array.dtype)][0]
        wide = array.dtype.kind in "iu" and array.dtype.itemsize > 4 and array.size
        if wide and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
            raise self._refusal(f"'{name}' holds numbers beyond 32 bits, which MNN does not have")
        return np.ascontiguousarray(array, held)

    def _refusal(self, why: str, what: str = "cannot run") -> ModelError:
        return ModelError(
            f"MNN {what} {self._model.name}: {why}.",
            "Check the inputs' types, shapes and values against what the model takes, or use another backend.",
        )


def foreign_tensors(model: Model) -> list[str]:
    """Inputs and outputs whose element types MNN's Python interface has nothing for."""
    return [str(spec) for spec in (*model.inputs, *model.outputs) if spec.dtype not in _KINDS]


class _Output:
    """An output of a bound call, which stays in MNN's memory until it is asked for."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._session.output(self._name).astype(dtype, copy=False)


class SessionRunner:
    """A live MNN model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        facts = read_json(engine.path.with_name(FACTS), Facts)
        self._placement = {f"CPU ({facts.computes})": facts.layers}
        self._own = threading.local()  # a session runs once at a time, and sessions of one net wait for each other
        self._own.session = Session(engine)

    @property
    def placement(self) -> Mapping[str, int]:
        """Layers that MNN runs, by the type that it computes floats in, e.g. `{'CPU (f32)': 14}`."""
        return self._placement

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: MNN cannot run it on these inputs.
        """
        if not hasattr(self._own, "session"):
            self._own.session = Session(self._engine)
        session: Session = self._own.session
        session.set_inputs(feed)
        session.run()
        return {spec.name: session.output(spec.name) for spec in self._engine.model.outputs}

    def bind(self, feed: Tensors) -> Callable[[], Mapping[str, Any]]:
        """Copies the inputs, which MNN overwrites, and calls `Interpreter.runSession`, as MNN's own benchmark does.

        The outputs stay in MNN's memory.
        """
        session = Session(self._engine)
        session.set_inputs(feed)
        session.run()  # a fault shows here, and not while the call is timed
        outputs = {spec.name: _Output(session, spec.name) for spec in self._engine.model.outputs}
        copies, run, inner = session.copies, session.net.runSession, session.session

        def call() -> Mapping[str, Any]:
            for copy, tensor in copies:
                copy(tensor)
            run(inner)
            return outputs

        return call
