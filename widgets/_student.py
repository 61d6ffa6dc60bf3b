"""What is trained: a copy of the teacher with fewer channels, a variant, or what a function of the user's builds."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._form import FIELD_WIDTH, LABEL_STYLE
from workbench.errors import ModelError, OptionsError
from workbench.model import Model

CHANNELS, VARIANT, FUNCTION = "Fewer channels", "A variant", "A function"
_ABOUT = {
    CHANNELS: "A copy of the teacher that keeps this share of its channels, those that matter most, and learns again.",
    VARIANT: "A model from Compress, trained from the weights that it has: fine-tuning.",
    FUNCTION: "A function that returns a torch.nn.Module with the teacher's inputs and outputs.",
}


class StudentPick(w.VBox):
    """Three kinds of student, of which one is chosen.

    Attributes:
        variants: Named models: (name, Model) each.
    """

    variants = t.Tuple()

    def __init__(self) -> None:
        field: dict[str, Any] = {"style": LABEL_STYLE, "layout": w.Layout(width=FIELD_WIDTH)}
        self.kind = w.ToggleButtons(options=list(_ABOUT), style={"button_width": "auto"})
        self.share = w.BoundedIntText(50, min=10, max=90, step=5, description="Channels", **field)
        self._slider = w.IntSlider(
            50, min=10, max=90, step=5, readout=False, layout=w.Layout(width="180px", margin="0 0 0 142px")
        )
        self.variant = w.Dropdown(description="Variant", options=[], **field)
        self.function = w.Text(description="Function", placeholder="e.g. nets.py:build", **field)
        self._about, self._slot = w.HTML(), w.VBox()
        super().__init__([self.kind, self._about, self._slot])
        w.jslink((self.share, "value"), (self._slider, "value"))
        unit = w.HTML('<span class="wb-unit">%</span>')
        row = w.HBox([self.share, unit])
        row.add_class("wb-field")
        self._controls = {CHANNELS: [row, self._slider], VARIANT: [self.variant], FUNCTION: [self.function]}
        self.kind.observe(lambda _: self._swap(), "value")
        self.observe(lambda _: self._list(), "variants")
        self._swap()

    @property
    def label(self) -> str:
        """A name for the student."""
        if self.kind.value == CHANNELS:
            return f"student, {self.share.value} % of channels"
        if self.kind.value == VARIANT:
            return f"{self.variant.value}, trained"
        place, _, function = self.function.value.strip().rpartition(":")
        return f"student, {function} of {PurePath(place).name}" if place else "student"

    @property
    def code(self) -> str:
        """The student as Python."""
        if self.kind.value == VARIANT:
            return f"variants[{self.variant.value!r}]"
        return repr(self.share.value / 100 if self.kind.value == CHANNELS else self.function.value.strip())

    def read(self) -> Model | str | float:
        """The student as `distil` takes it.

        Raises:
            ModelError: There is no variant.
            OptionsError: No function is named.
        """
        if self.kind.value == CHANNELS:
            return float(self.share.value) / 100
        if self.kind.value == VARIANT:
            if self.variant.value is None:
                raise ModelError("There is no variant to train.", "Make one in Compress first, e.g. by pruning.")
            found: Model = dict(self.variants)[self.variant.value]
            return found
        if not self.function.value.strip():
            raise OptionsError("No function is named.", "Write `package.module:function` or `folder/file.py:function`.")
        return str(self.function.value.strip())

    def _swap(self) -> None:
        self._about.value = _markup.note(_ABOUT[self.kind.value])
        self._slot.children = self._controls[self.kind.value]

    def _list(self) -> None:
        names = [name for name, _ in self.variants]
        chosen = self.variant.value
        self.variant.options = names
        if names:
            self.variant.value = chosen if chosen in names else names[-1]
