"""What a serving package says of a library that is not there; it needs nothing but Python itself."""

from __future__ import annotations


def say_missing(error: ImportError) -> str:
    """What an import failed for, and what to do about it, in one paragraph."""
    absent = isinstance(error, ModuleNotFoundError) and error.name
    what = f"{str(error.name).partition('.')[0]} is not installed" if absent else f"A library does not load: {error}"
    return f"{what}. Run: pip install -r requirements.txt"
