"""Names from files in messages: a few of them, and only what can be printed."""

from __future__ import annotations

from collections.abc import Iterable

from workbench.model_file import shown


def listed(names: Iterable[str], most: int = 5) -> str:
    """Lists names once each, in alphabetical order, the first few only."""
    unique = sorted(set(names))
    more = f" and {len(unique) - most} more" if len(unique) > most else ""
    return ", ".join(shown(name) for name in unique[:most]) + more


def reason_of(error: Exception) -> str:
    """What a framework's exception says, as one line without a full stop."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(text.split())[:300].rstrip(".") or type(error).__name__
