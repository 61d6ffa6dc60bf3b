"""The Explain panel: why each candidate is as fast as it is, as cards with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import traitlets as t
import yaml

from widgets import _markup
from widgets._finding_card import finding_card
from widgets._form import FIELD_WIDTH, LABEL_STYLE
from widgets._panel import Panel, Work
from widgets._plots import candidate_color
from workbench.comparison import Comparison
from workbench.dataset import Dataset
from workbench.errors import ModelError
from workbench.findings import Finding, explain, findings_html
from workbench.jobs import Progress

_ALL = "all candidates"
_MOST_NODES = 6


class Explain(Panel):
    """Looks for reasons in what was measured; "Apply" adds the remedy to what Compare measures next."""

    title = "Explain"
    hint = "Profiles each measured candidate, tries remedies in short trials, and says what costs time and what to do."
    verb = "Explain"
    icon = "lightbulb-o"
    update_seconds = 1.0  # updates of the page would disturb the trials

    comparison = t.Instance(Comparison, allow_none=True)
    evaluation = t.Instance(Dataset, allow_none=True)
    profiles = t.Dict(help="Profiles at hand, by name of the candidate; others are made.")
    findings = t.Tuple(None, allow_none=True, help="Finding each, the costliest first; None before it looked.")
    additions = t.Tuple(help="Candidates to measure too, as a recipe has them: what Apply adds to.")
    selected_node = t.Unicode(help="Name of the node that was clicked in a card.")

    def __init__(self, **traits: Any) -> None:
        self.show_only = w.Dropdown(
            description="Show", options=[_ALL], style=LABEL_STYLE, layout=w.Layout(width=FIELD_WIDTH)
        )
        self._view = w.HTML()
        self.cards = w.VBox()
        self.cards.add_class("wb-cards")
        super().__init__(self.show_only, self._view, self.cards, **traits)
        self.show_only.observe(self.guard(self._draw), "value")
        self.observe(self.guard(self._forget), "comparison")
        self.observe(self.guard(self._draw), ("findings", "additions"))
        self._forget()

    def prepare(self) -> Work:
        """Takes what Compare measured."""
        if self.comparison is None:
            raise ModelError("There is nothing measured to explain.", "Measure in Compare first.")
        comparison, dataset, profiles = self.comparison, self.evaluation, dict(self.profiles)

        def work(progress: Progress) -> tuple[Finding, ...]:
            workspace = self.open_workspace()
            return explain(comparison, dataset=dataset, profiles=profiles, workspace=workspace, progress=progress)

        return work

    def show(self, result: tuple[Finding, ...]) -> None:
        """Shows a card for each finding."""
        self.findings = result

    def apply(self, finding: Finding) -> None:
        """Adds the candidate that a finding proposes to those that Compare measures."""
        if finding.step is not None and not self._is_added(finding.step):
            self.additions = (*self.additions, dict(finding.step))
            self._status.value = f"'{finding.step['name']}' is added: press Measure in Compare"

    def code(self) -> tuple[str, str]:
        """Explaining as Python; what was applied as candidates of a recipe."""
        python = (
            "import workbench as wb\n\n"
            "findings = wb.explain(comparison, dataset=evaluation)\nprint(wb.findings_text(findings))"
        )
        candidates = {"candidates": [dict(addition) for addition in self.additions]}
        return python, yaml.safe_dump(candidates, sort_keys=False) if self.additions else ""

    def summary(self) -> str:
        """The findings without buttons."""
        return self._view.value if self.findings is None else findings_html(self.findings)

    def _forget(self) -> None:
        """Another measurement: what was found belongs to the one before."""
        names = [row.name for row in self.comparison.rows] if self.comparison else []
        self.show_only.options = [_ALL, *names]
        self.findings = None
        self._draw()

    def _draw(self) -> None:
        comparison, only, findings = self.comparison, self.show_only.value, self.findings or ()
        self.show_only.layout.display = "" if findings else "none"
        shown = [finding for finding in findings if only in (_ALL, finding.candidate)]
        self._view.value = self._state(shown)
        self.cards.children = [self._card(finding, comparison) for finding in shown] if comparison else []

    def _state(self, shown: Sequence[Finding]) -> str:
        if self.comparison is None:
            return _markup.empty("Measure candidates in Compare first.")
        if self.findings is None:
            return _markup.empty("Press Explain to look for what costs time.")
        if not shown:
            of = "" if self.show_only.value == _ALL else f" of {self.show_only.value}"
            return _markup.empty(f"✓ Looked, and found nothing{of} that costs time and could be changed.")
        found = f"{len(shown)} finding{'s' if len(shown) > 1 else ''}, the costliest first"
        steps = sum(finding.step is not None for finding in shown)
        return _markup.note(f"{found}; {steps} can be applied." if steps else f"{found}.")

    def _card(self, finding: Finding, comparison: Comparison) -> w.VBox:
        names = [row.name for row in comparison.rows]
        number = names.index(finding.candidate) if finding.candidate in names else 0
        text = w.HTML(finding_card(finding, comparison, candidate_color(number)))
        buttons = [self._apply_button(finding, finding.step)] if finding.step is not None else []
        buttons += [self._node_button(name) for name in finding.nodes[:_MOST_NODES]]
        rest = len(finding.nodes) - _MOST_NODES
        row = w.HBox([*buttons, *([w.HTML(_markup.note(f"and {rest} more nodes"))] if rest > 0 else [])])
        row.add_class("wb-actions")
        card = w.VBox([text, *([row] if row.children else [])])
        card.add_class("wb-finding")
        return card

    def _apply_button(self, finding: Finding, step: Mapping[str, Any]) -> w.Button:
        added = self._is_added(step)
        button = w.Button(
            description="Added" if added else "Apply",
            icon="check" if added else "plus",
            disabled=added,
            tooltip=f"Adds '{step['name']}' to what Compare measures",
        )
        button.on_click(self.guard(lambda: self.apply(finding)))
        return button

    def _node_button(self, name: str) -> w.Button:
        button = w.Button(description=name, tooltip=f"Select {name} in Inspect and Profile")
        button.add_class("wb-node")
        button.on_click(lambda _: setattr(self, "selected_node", name))
        return button

    def _is_added(self, step: Mapping[str, Any]) -> bool:
        return step["name"] in [addition["name"] for addition in self.additions]
