"""Small pieces of HTML that the panels share; every text is escaped here."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterable, Mapping

from workbench.errors import WorkbenchError
from workbench.measure.trust import Trust

STYLE = f"<style>{pathlib.Path(__file__).with_name('panel.css').read_text('utf-8')}</style>"


def heading(title: str, hint: str) -> str:
    """A panel's title and what it is for."""
    return f"<h3>{html.escape(title)}</h3><p>{html.escape(hint)}</p>"


def empty(text: str) -> str:
    """What to do where there is nothing to show yet."""
    return f'<div class="wb-empty">{html.escape(text)}</div>'


def note(text: str) -> str:
    """A remark below a result; lines stay lines."""
    return f'<div class="wb-note">{html.escape(text)}</div>'.replace("\n", "<br>")


def group(text: str) -> str:
    """A heading within a panel."""
    return f'<div class="wb-group">{html.escape(text)}</div>'


def warning(text: str) -> str:
    """What may not work later; lines stay lines."""
    return f'<div class="wb-warning" role="status">{html.escape(text)}</div>'.replace("\n", "<br>")


def facts(rows: Mapping[str, str]) -> str:
    """Names and values below each other."""
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f'<table class="wb-facts">{"".join(cells)}</table>'


def checks(trust: Trust) -> str:
    """Everything that was checked of a measurement, one by one: what was found, and whether it speaks against it."""
    words = {"ok": "✓", "doubt": "✗", "unknown": "–"}
    rows = (
        f'<tr class="wb-{check.verdict}"><td title="{check.verdict}">{words[check.verdict]}</td>'
        f"<th>{html.escape(check.name)}</th><td>{html.escape(check.reason)}</td></tr>"
        for check in trust.checks
    )
    return f'<table class="wb-facts wb-checks">{"".join(rows)}</table>'


def listing(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A plain table."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="wb-list"><tr>{head}</tr>{body}</table>'


def problem(error: Exception) -> str:
    """An error in words with its remedy; technical details are folded."""
    if not isinstance(error, WorkbenchError):
        text = f"Something unexpected went wrong: {type(error).__name__}: {error}."
        return _alert(f"{html.escape(text)}<br>Please report it; what had finished is kept.")
    details = getattr(error, "details", "")
    folded = (
        f"<details><summary>Details</summary><pre>{html.escape(details.strip())}</pre></details>" if details else ""
    )
    return _alert(f"<b>{html.escape(error.message)}</b><br>{html.escape(error.remedy)}{folded}")


def _alert(content: str) -> str:
    return f'<div class="wb-problem" role="alert">{content}</div>'


def code(python: str, recipe: str) -> str:
    """What does the same as a click, as Python and as the step of a recipe."""
    parts = [f"<b>Python</b><pre>{html.escape(python.strip())}</pre>"]
    if recipe:
        parts.append(f"<b>Recipe</b><pre>{html.escape(recipe.strip())}</pre>")
    return "".join(parts)
