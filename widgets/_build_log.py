"""What a backend says while it builds: its last line, and the last two hundred where they are asked for."""

from __future__ import annotations

import html
import threading
import time
from collections import deque

import ipywidgets as w

_LINES = 200
_SECONDS = 0.2  # between two updates of the page
_WIDEST = 400  # letters of a line: some builders write tables into one


class LogView(w.VBox):
    """Lines as they come, from any thread; folded to the last one until a click shows the rest."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._count = 0
        self._shown = 0.0
        self._pending = False
        self._lock = threading.Lock()
        self._last, self._all = w.HTML(), w.HTML()
        self.unfold = w.ToggleButton(description="Log", icon="align-left", tooltip="What the backend says as it builds")
        head = w.HBox([self.unfold, self._last])
        super().__init__([head, self._all])
        for widget, name in ((self, "wb-log"), (head, "wb-log-head"), (self._last, "wb-log-last")):
            widget.add_class(name)
        self.unfold.observe(lambda _: self.flush(force=True), "value")
        self.clear()

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._lines)

    def clear(self) -> None:
        """Forgets what was said."""
        with self._lock:
            self._lines.clear()
            self._count, self._shown, self._pending = 0, 0.0, False
        self._last.value = self._all.value = ""
        self.layout.display = "none"

    def say(self, line: str) -> None:
        """Takes one line, or several at once."""
        with self._lock:
            for part in line.splitlines():
                if part.strip():
                    self._lines.append(part.rstrip()[:_WIDEST])
                    self._count += 1
            self._pending = True
        self.flush()

    def flush(self, *, force: bool = False) -> None:
        """Brings the page up to date, unless it was a moment ago."""
        now = time.monotonic()
        with self._lock:
            if not force and (not self._pending or now - self._shown < _SECONDS):
                return
            self._shown, self._pending = now, False
            lines, count = list(self._lines), self._count
        if not lines:
            return
        self.layout.display = ""
        cut = f"… {count - len(lines):,} lines before\n" if count > len(lines) else ""
        self._last.value = f'<code title="{count:,} lines">{html.escape(lines[-1])}</code>'
        # The outer box runs from the bottom to the top, so that the page stays at the last line.
        text = html.escape(cut + "\n".join(lines))
        self._all.value = f'<div class="wb-log-all" tabindex="0"><pre>{text}</pre></div>' if self.unfold.value else ""
