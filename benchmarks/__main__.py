"""Runs the benchmarks of this folder, one after the other; a name or several choose among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

APART = ("serving",)  # fetches other servers first: make bench-serving


def main() -> None:
    """Runs each benchmark in a fresh process, so that none warms another's caches."""
    here = Path(__file__).parent
    found = sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))
    names = sys.argv[1:] or [name for name in found if name not in APART]
    for name in names:
        print(f"\n== {name} ==", flush=True)
        subprocess.run([sys.executable, str(here / f"{name}.py")], check=True)


if __name__ == "__main__":
    main()
