"""How a command that is refused ends."""

from __future__ import annotations

import subprocess


def paragraph(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    [line] = ended.stderr.strip().splitlines()
    return line
