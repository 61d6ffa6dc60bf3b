"""Says in words why PyTorch cannot export a module, with the line of the user's code where there is one."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from workbench.errors import ConversionError

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s+(\S.*)')


def explain(error: BaseException, title: str) -> ConversionError:
    """Says in words why a module cannot be exported."""
    text, details = chain(error), traceback.format_exc()
    if operator := re.search(r"(?:No ONNX function found for <OpOverload\(op='|operator ')([\w.:]+)'", text):
        return ConversionError(
            f"{title} uses {operator[1]}, which cannot be written as ONNX.",
            "Replace it with other operations, or leave it out of the module and do that step before or after it.",
            details,
        )
    if "data-dependent" in text or "DataDependent" in text:
        return ConversionError(
            f"{title} decides by the values of a tensor what to compute{place(error)}, which a graph cannot hold.",
            "Use torch.where or torch.cond there, or move the decision out of the module.",
            details,
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ConversionError(
        f"{title} cannot be converted to ONNX: {sentence(cause)}{place(error)}.",
        "Replace the operation that the reason names, or try another opset.",
        details,
    )


def is_final(error: BaseException) -> bool:
    """Whether a fixed batch would not help either."""
    text = chain(error)
    return "No ONNX function found" in text or "data-dependent" in text


def chain(error: BaseException | None) -> str:
    """What an error and those that it came from say, one per line."""
    texts = []
    while error is not None:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return "\n".join(texts)


def sentence(error: BaseException) -> str:
    """The first line of what an error says, as the start of a sentence."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[0].split())[:200].rstrip(".:") if lines else type(error).__name__


def place(error: BaseException) -> str:
    """The line of the user's own code that it is about, if that can be found."""
    frames = [(file, line, code) for file, line, code in _FRAME.findall(chain(error)) if not _foreign(file)]
    cause: BaseException | None = error
    while cause is not None and not frames:
        frames = [
            (frame.filename, str(frame.lineno), frame.line or "")
            for frame in traceback.extract_tb(cause.__traceback__)
            if not _foreign(frame.filename)
        ]
        cause = cause.__cause__
    if not frames:
        return ""
    file, line, code = frames[-1]
    return f" (`{code.strip()}` in {Path(file).name}, line {line})"


def _foreign(file: str) -> bool:
    return (
        file.startswith("<frozen")
        or bool({"site-packages", "torch"} & set(Path(file).parts))
        or (Path(file).parent == Path(__file__).parent)
    )
