"""Damages TensorFlow, Keras and TFLite files in seeded, random ways and opens what is left.

python tests/importers/tensorflow_damage.py FOLDER [--count 400] [--seed 1]

A worker opens many files, as starting TensorFlow takes seconds; one that kills it is counted and costs a new worker.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

FILES = (
    ("keras", "net.keras"),
    ("keras", "net.h5"),
    ("tensorflow", "frozen.pb"),
    ("tensorflow", "net"),
    ("tflite", "float.tflite"),
    ("tflite", "int8.tflite"),
)
MEMORY = 6 * 2**30  # as the verb limits it
SECONDS = 60  # what hangs longer is ended


def damage(path: Path, target: Path, chance: np.random.Generator) -> str:
    """Writes a damaged copy; a folder has one of its files damaged."""
    if path.is_dir():
        shutil.copytree(path, target)
        parts = sorted(part for part in target.rglob("*") if part.is_file())
        part = parts[chance.integers(len(parts))]
        return f"{part.name} {damage(part, part, chance)}"
    content = bytearray(path.read_bytes())
    place = int(chance.integers(len(content)))
    kind = ("cut", "bit", "bytes", "zeros", "ones", "moved")[chance.integers(6)]
    span = slice(place, place + int(chance.integers(1, 64)))
    if kind == "cut":
        del content[place:]
    elif kind == "bit":
        for _ in range(chance.integers(1, 9)):
            content[chance.integers(len(content))] ^= 1 << int(chance.integers(8))
    elif kind == "bytes":
        content[span] = chance.bytes(len(content[span]))
    elif kind in ("zeros", "ones"):
        content[span] = (b"\0" if kind == "zeros" else b"\xff") * len(content[span])
    else:
        del content[span]
    target.write_bytes(content)
    return f"{kind} at {place}"


def run(folder: Path, count: int, seed: int, files: Sequence[tuple[str, str]] = FILES) -> list[dict[str, str | float]]:
    """Opens and converts damaged files; one line of outcome each."""
    outcomes: list[dict[str, str | float]] = []
    while len(outcomes) < count:
        command = [sys.executable, __file__, str(folder), "--count", str(count), "--seed", str(seed)]
        ended = subprocess.run(
            [*command, "--from", str(len(outcomes)), "--files", json.dumps(files)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        outcomes += [json.loads(line) for line in ended.stdout.splitlines() if line.startswith(b"{")]
        if len(outcomes) < count:
            end = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit {ended.returncode}"
            outcomes.append({"case": files[len(outcomes) % len(files)][1], "verdict": f"died of {end}", "words": ""})
    return outcomes


def work(folder: Path, numbers: range, seed: int, files: Sequence[tuple[str, str]]) -> Iterator[dict[str, str | float]]:
    """Opens some of the damaged files in this process."""
    from workbench.errors import WorkbenchError
    from workbench.jobs import silent
    from workbench.plugins import find_plugin

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for number in numbers:
        importer, name = files[number % len(files)]
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            done = damage(folder / name, path, np.random.default_rng([seed, number]))
            signal.alarm(SECONDS)
            start = time.monotonic()
            plugin = find_plugin("importers", importer)
            verdict, words = "opening", ""
            try:
                source = plugin.open_source(path, plugin.Options(), None, False)
                verdict = "converting"
                source.write_onnx(Path(temporary) / "model.onnx", silent)
                verdict = "converted"
            except WorkbenchError as error:
                verdict, words = "refused", str(error)
            except Exception as error:  # the verb puts these into words
                verdict, words = f"raised while {verdict}", f"{type(error).__name__}: {str(error)[:200]}"
            signal.alarm(0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.monotonic() - start
        yield {"case": name, "damage": done, "verdict": verdict, "words": words, "seconds": seconds, "mb": peak}


def main() -> None:
    """Prints how often what came of it, and what died."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, dest="first", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=json.loads, default=FILES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first is not None:
        output = os.dup(1)
        os.dup2(2, 1)  # TensorFlow prints where it likes
        for outcome in work(given.folder, range(given.first, given.count), given.seed, given.files):
            os.write(output, f"{json.dumps(outcome)}\n".encode())
        return
    outcomes = run(given.folder, given.count, given.seed, given.files)
    for (case, verdict), times in sorted(Counter((o["case"], o["verdict"]) for o in outcomes).items()):
        print(f"{times:6}  {case:14} {verdict}")
    print(f"peak {max(float(o.get('mb', 0)) for o in outcomes):.0f} MB")
    print(f"slowest {max(float(o.get('seconds', 0)) for o in outcomes):.1f} s")


if __name__ == "__main__":
    main()
