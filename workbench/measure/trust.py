"""The trust badge: what was checked of a measurement, and what speaks against believing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, e.g. `provider`, `stable`, `samples`, `noise`, `other load`.
        verdict: `ok`, `doubt`, or `unknown` where this machine does not let it be checked.
        reason: What was found, in words, with figures.
    """

    name: str
    verdict: Literal["ok", "doubt", "unknown"]
    reason: str


@dataclass(frozen=True)
class Trust:
    """Everything that was checked of one measurement."""

    checks: tuple[Check, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the numbers."""
        return not self.caveats

    @property
    def caveats(self) -> tuple[str, ...]:
        """Reasons not to trust the numbers."""
        return tuple(check.reason for check in self.checks if check.verdict == "doubt")

    def __str__(self) -> str:
        marks = {"ok": "✓", "doubt": "✗", "unknown": "–"}
        return "\n".join(f"{marks[check.verdict]} {check.name}: {check.reason}" for check in self.checks)
