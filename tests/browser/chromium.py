"""Finds a Chromium for the browser tests or gets one: Debian's package as root, Playwright's own otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "WORKBENCH_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium(playwrights: str) -> str | None:
    """The path of a Chromium that is here, or None.

    Args:
        playwrights: Where Playwright's own would lie.
    """
    places = [os.environ.get(VARIABLE), *map(shutil.which, _NAMES), playwrights]
    return next((place for place in places if place and Path(place).exists()), None)


def get_chromium() -> None:
    """Installs one, quietly; where that fails, the tests that need it are skipped with the reason."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        if subprocess.run(install, check=False, **quiet).returncode == 0:
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def main() -> None:
    """Finds or gets one and says which."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        playwrights = playwright.chromium.executable_path
    if find_chromium(playwrights) is None:
        get_chromium()
    found = find_chromium(playwrights)
    print(f"browser tests use {found}" if found else "no Chromium could be had: browser tests will be skipped")


if __name__ == "__main__":
    main()
