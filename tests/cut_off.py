"""Puts a version into copies of a package, each time killed before another one of its writes.

`PACKAGE NEWER FOLDER START KEY`: the copies are FOLDER/START/package and so on, named by how many writes were done; the
last one is whole. KEY is empty if nothing is signed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from workbench.exporters import read_package
from workbench.served_versions import add_version

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def main() -> None:
    package, newer, folder = map(Path, sys.argv[1:4])
    key = sys.argv[5] or None
    for number in itertools.count(int(sys.argv[4])):
        copy = shutil.copytree(package, folder / str(number) / "package")
        if (child := os.fork()) == 0:
            die_before(number)
            add_version(read_package(copy), read_package(newer), sign_key=key)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            sys.exit(status)


def die_before(number: int) -> None:
    """Has this process kill itself when it is about to write once more than so often."""
    done = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _WRITES or opened:
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    sys.addaudithook(watch)


if __name__ == "__main__":
    main()
