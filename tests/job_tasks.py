"""What the workers of test_jobs.py run; a worker imports its function by name, so they need a file of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from workbench.errors import DatasetError
from workbench.jobs import Progress


def add(first: int, second: int, progress: Progress) -> int:
    return first + second


def spell(word: str, progress: Progress, tell: Callable[[str], None]) -> int:
    for letter in word:
        tell(letter)
    return len(word)


def process_number(progress: Progress) -> int:
    return os.getpid()


def chatter(progress: Progress) -> str:
    print("a line in Python")
    sys.stderr.write("x" * 300_000)
    os.write(1, b"bytes past Python")
    subprocess.run(["echo", "a line of a child"], check=True)
    return "heard"


def report_progress(progress: Progress) -> None:
    for step in range(3):
        progress(step / 3, f"step {step}")
        time.sleep(0.15)


def tell_events(channel: Connection, count: int) -> None:
    for number in range(count):
        channel.send(("event", number))
    channel.send(("result", "told"))


def refuse(progress: Progress) -> None:
    raise DatasetError("The samples are too few.", "Give more.")


def fail(progress: Progress) -> None:
    raise ZeroDivisionError("nothing to divide by")


def answer_with_something_unsendable(progress: Progress) -> Any:
    return lambda: None


def crash(progress: Progress) -> None:
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(progress: Progress) -> None:
    os._exit(3)


def crash_with_a_child_that_holds_the_channel(progress: Progress) -> None:
    if os.fork():
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)


def wait_with_child(pids: str, progress: Progress) -> None:
    """Starts a child that ignores SIGTERM, writes both process numbers, and waits."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    Path(pids).with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    Path(pids).with_suffix(".part").rename(pids)
    progress(0.5, "waiting")
    time.sleep(600)


def list_modules(progress: Progress) -> list[str]:
    return sorted(sys.modules)


def echo(channel: Connection, prefix: str) -> None:
    while True:
        channel.send(("result", f"{prefix} {channel.recv()}"))
