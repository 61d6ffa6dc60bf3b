"""What a user does with the workbench in a browser: goes to a step, presses a button, reads; and takes pictures."""

from __future__ import annotations

import os
import pathlib
import re

from playwright.sync_api import Locator, Page, expect

SLOW = 60_000  # ms; a machine that is busy with other tests
SCREENSHOTS = os.environ.get("WORKBENCH_SCREENSHOTS")


def themes(*usual: str) -> tuple[str, ...]:
    """The themes to test in: the usual ones, or both where pictures are wanted."""
    return ("light", "dark") if SCREENSHOTS else usual


class User:
    """What a user does with the workbench: goes to a step, presses a button, reads."""

    def __init__(self, page: Page, pictures: str) -> None:
        self.page = page
        self.pictures = pictures

    def go_to(self, step: str) -> None:
        self.page.get_by_role("tab", name=re.compile(f"{step}$")).click()

    def button(self, name: str) -> Locator:
        return self.page.locator("button:visible", has_text=re.compile(rf"^\W*{name}$"))

    def field(self, name: str) -> Locator:
        return self.page.get_by_label(name).locator("visible=true")

    def press(self, name: str) -> None:
        self.button(name).click()

    def sees(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_text(text).locator("visible=true").first).to_be_visible(timeout=SLOW)

    def waits_until_done(self) -> None:
        self.sees(re.compile("^done in"))

    def takes_picture(self, name: str) -> None:
        if SCREENSHOTS:
            pathlib.Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SCREENSHOTS}/{self.pictures}-{name}.png")


def brightness(element: Locator, what: str) -> float:
    """Mean of red, green and blue of a computed colour, 0 to 255; the first ancestor's that is not transparent."""
    colour = element.evaluate(
        """(node, what) => {
          for (let at = node; at; at = at.parentElement) {
            const found = getComputedStyle(at)[what];
            if (found !== 'rgba(0, 0, 0, 0)') return found;
          }
          return 'rgb(255, 255, 255)';
        }""",
        what,
    )
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
