"""Linters: what the layers of an engine show that costs time or is not what the model asks for.

A linter is a function that takes a `Subject` and yields issues. It is listed in `LINTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from workbench.linters.kernels import slow_kernels, unaligned_channels
from workbench.linters.movement import reformats, times_exceed
from workbench.linters.quantization import float_outputs, float_products, unfused_qdq
from workbench.linters.subject import EngineIssue as EngineIssue
from workbench.linters.subject import Subject as Subject

LINTERS: tuple[Callable[[Subject], Iterator[EngineIssue]], ...] = (
    float_products,
    float_outputs,
    unfused_qdq,
    reformats,
    unaligned_channels,
    slow_kernels,
    times_exceed,
)


def lint(subject: Subject) -> tuple[EngineIssue, ...]:
    """Runs every linter; issues with the most time at stake come first, those without times in the linters' order."""
    issues = [issue for linter in LINTERS for issue in linter(subject)]
    return tuple(sorted(issues, key=lambda issue: -(issue.milliseconds or 0.0)))
