"""Runs every benchmark of this folder, one after the other; a name or several choose among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Runs each benchmark in a fresh process, so that none warms another's caches."""
    here = Path(__file__).parent
    names = sys.argv[1:] or sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))
    for name in names:
        print(f"\n== {name} ==", flush=True)
        subprocess.run([sys.executable, str(here / f"{name}.py")], check=True)


if __name__ == "__main__":
    main()
