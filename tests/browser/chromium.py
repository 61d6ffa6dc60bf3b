"""Finds a Chromium for the browser tests or gets one: Debian's package as root, Playwright's own otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "WORKBENCH_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The path of a Chromium that is here, or None."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get(VARIABLE)
    if named and Path(named).exists():
        return named
    installed = next(filter(None, map(shutil.which, _NAMES)), None)
    if installed:
        return installed
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def get_chromium() -> None:
    """Installs one, quietly; where that fails, the tests that need it are skipped with the reason."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        if subprocess.run(install, check=False, **quiet).returncode == 0:
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


if __name__ == "__main__":
    if find_chromium() is None:
        get_chromium()
    print(f"browser tests use {find_chromium() or 'nothing: no Chromium could be had, they will be skipped'}")
