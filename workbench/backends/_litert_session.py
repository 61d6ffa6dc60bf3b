"""Opens and runs LiteRT's interpreters."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from workbench.backends._feeds import check_feed
from workbench.backends._host import physical_cores
from workbench.engine import Engine, Tensors
from workbench.errors import EngineError, ModelError
from workbench.workspace import read_json

FILE, ENDS = "model.tflite", "ends.json"
DEVICE = "CPU"

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # channels of an image: as LiteRT has them, and as ONNX has
_NEWS = "INFO: "  # how a line begins in which LiteRT says what it does
_STDERR = threading.Lock()  # the descriptor belongs to the whole process


@dataclass(frozen=True)
class End:
    """Where a tensor of the model is found in the .tflite file.

    Attributes:
        name: Its name in the model.
        index: Number of the tensor in the file; None where the file has none since nothing reads it.
        turned: Whether the file has the channels of an image last, where the model has them first.
    """

    name: str
    index: int | None
    turned: bool = False


@dataclass(frozen=True)
class Ends:
    """What goes in and comes out of a .tflite file, in the model's order."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def open_interpreter(path: Path, threads: int, kernels: str = "xnnpack") -> Any:
    """Opens a file in LiteRT, without TensorFlow.

    Raises:
        ValueError: It is no .tflite file.
        RuntimeError: It holds operators that this LiteRT has not.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    own = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _without_news():
        resolver = OpResolverType.AUTO if kernels == "xnnpack" else own
        interpreter = Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _without_news() -> Iterator[None]:
    """Keeps LiteRT from telling on stderr that it uses XNNPACK, which it lets nobody switch off; all else goes on."""
    with _STDERR, tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if not line.startswith(_NEWS.encode()):
                    os.write(2, line)


class Session:
    """One interpreter with its inputs and outputs by the model's names; used by one thread at a time.

    Args:
        path: The .tflite file.
        ends: Which tensors of it are the model's.
        threads: Threads that XNNPACK and LiteRT's own kernels may use.
        kernels: `xnnpack`, or `builtin` for LiteRT's own alone.
    """

    def __init__(self, path: Path, ends: Ends, threads: int, kernels: str) -> None:
        self.interpreter = open_interpreter(path, threads, kernels)
        self._ends = ends
        self._shapes = {
            detail["index"]: tuple(map(int, detail["shape"])) for detail in self.interpreter.get_input_details()
        }

    def set_inputs(self, feed: Tensors) -> None:
        """Copies the inputs in; where their sizes are others than before, LiteRT plans its memory again.

        Raises:
            ValueError: LiteRT does not take them.
            RuntimeError: It cannot run at these sizes.
        """
        arrays = {
            end.index: np.ascontiguousarray(_transposed(feed[end.name], _TO_LAST) if end.turned else feed[end.name])
            for end in self._ends.inputs
            if end.index is not None
        }
        changed = {index: array.shape for index, array in arrays.items() if self._shapes[index] != array.shape}
        if changed:
            self._shapes.update(dict.fromkeys(changed, ()))  # unknown should it fail half-way
            for index, shape in changed.items():
                self.interpreter.resize_tensor_input(index, shape, strict=True)
            self.interpreter.allocate_tensors()
            self._shapes.update(changed)
        for index, array in arrays.items():
            self.interpreter.set_tensor(index, array)

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Copies of the outputs, in the model's order."""
        arrays = {end.name: (self.interpreter.get_tensor(end.index), end.turned) for end in self._ends.outputs}
        return {name: _transposed(array, _TO_FIRST) if turned else array for name, (array, turned) in arrays.items()}


class BoundCall:
    """Runs an interpreter on inputs that were set before; read like a sequence, it gives copies of the outputs."""

    __slots__ = ("_invoke", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._invoke = session.interpreter.invoke

    def __call__(self) -> BoundCall:
        self._invoke()
        return self

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self._session.outputs().values())


class InterpreterRunner:
    """A live .tflite file. Each thread that calls has an interpreter of its own, with its own packed weights.

    Args:
        engine: What to run.

    Raises:
        EngineError: What belongs to the file is missing.
        ModelError: LiteRT cannot open the file.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ends = _read_ends(engine)
        self._sessions = threading.local()
        self._sessions.own = first = self._open()
        self._placement = _placement(first.interpreter)

    @property
    def placement(self) -> Mapping[str, int]:
        """Operators that each kind of kernels runs, e.g. `{'CPU (XNNPACK)': 16}`."""
        return self._placement

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Raises:
            ModelError: LiteRT cannot run it on these inputs.
        """
        check_feed(self._engine.model, feed, "LiteRT")
        if not hasattr(self._sessions, "own"):
            self._sessions.own = self._open()
        session: Session = self._sessions.own
        with self._in_words():
            session.set_inputs(feed)
            session.interpreter.invoke()
            return session.outputs()

    def bind(self, feed: Tensors) -> Callable[[], BoundCall]:
        """`Interpreter.invoke` on inputs that were set before, in an interpreter of its own."""
        check_feed(self._engine.model, feed, "LiteRT")
        session = self._open()
        with self._in_words():
            session.set_inputs(feed)
        return BoundCall(session)

    def _open(self) -> Session:
        options = self._engine.options
        try:
            return Session(self._engine.path, self._ends, options["threads"] or physical_cores(), options["kernels"])
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"LiteRT cannot open {self._engine.model.name}: {reason(error)}.",
                "Build the engine again; if it was imported from a .tflite file, that needs operators which this "
                "LiteRT has not.",
            ) from error

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"LiteRT cannot run {self._engine.model.name}: {reason(error)}.",
                "Check the inputs' types, shapes and values against what the model takes.",
            ) from error


def reason(error: Exception) -> str:
    """What LiteRT says, without the places in its source."""
    text = " ".join(str(error).split())
    return "".join(letter for letter in text[:400] if letter.isprintable()).rstrip(".") or type(error).__name__


def _read_ends(engine: Engine) -> Ends:
    try:
        return read_json(engine.path.with_name(ENDS), Ends)
    except (OSError, msgspec.MsgspecError):
        raise EngineError(
            f"The engine of {engine.model.name} lacks {ENDS}, which says what its inputs and outputs are.",
            "Build the engine again.",
        ) from None


def _transposed(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    return np.ascontiguousarray(np.transpose(array, order))


def _placement(interpreter: Any) -> dict[str, int]:
    """Counts the operators of the file; a delegate took those that lie between its inputs and its outputs."""
    operators = interpreter._get_ops_details()
    own = [entry for entry in operators if entry["op_name"] != "DELEGATE"]
    makers = {int(output): number for number, entry in enumerate(own) for output in entry["outputs"]}
    taken: set[int] = set()
    for delegate in operators[len(own) :]:
        given = set(map(int, delegate["inputs"]))
        waiting = [int(output) for output in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            number = makers.get(tensor)
            if tensor not in given and number is not None and number not in taken:
                taken.add(number)
                waiting += map(int, own[number]["inputs"])
    counts = {f"{DEVICE} (XNNPACK)": len(taken), f"{DEVICE} (built-in)": len(own) - len(taken)}
    return {place: count for place, count in counts.items() if count}
