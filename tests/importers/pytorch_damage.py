"""Opens damaged PyTorch files by the hundred in one process; by hand: `python pytorch_damage.py 5000 all 1`.

"all" adds the .pt2 program, which takes long to make. Formats that run code are read with trust.
Prints one line per file that neither opens nor is refused in words, then `N opened, N refused`. A crash ends it early.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from workbench.errors import WorkbenchError
from workbench.importers.pytorch import Options, open_source

FACTORY = (
    "import torch\n\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))\n"
)
TRUSTED = ("traced.pt", "program.pt2")
MEMORY = 6 * 2**30  # bytes, as a small file is opened with


def whole_files(folder: Path, program: bool) -> list[Path]:
    """One small file of each format."""
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5)).eval()
    weights = module.state_dict()
    torch.save(weights, folder / "weights.pth")
    torch.save({"state_dict": weights, "epoch": 3}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "weights.safetensors")
    torch.jit.trace(module, torch.zeros(2, 6)).save(str(folder / "traced.pt"))  # type: ignore[no-untyped-call]
    if program:
        torch.export.save(torch.export.export(module, (torch.zeros(2, 6),)), folder / "program.pt2")
    return sorted(folder.iterdir())


def damage(content: bytes, chance: np.random.Generator) -> bytes:
    """Cuts, flips bits, writes over, leaves out or repeats a piece."""
    start, end = sorted(int(place) for place in chance.integers(len(content), size=2))
    match int(chance.integers(5)):
        case 0:
            return content[:end]
        case 1:
            damaged = bytearray(content)
            for place in chance.integers(len(content), size=int(chance.integers(1, 5))):
                damaged[place] ^= 1 << int(chance.integers(8))
            return bytes(damaged)
        case 2:
            return content[:start] + chance.bytes(8) + content[start + 8 :]
        case 3:
            return content[:start] + content[end:]
        case _:
            return content[:end] + content[start:]


def main(count: int, program: bool, seed: int) -> None:
    """Tries `count` damaged files."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    chance = np.random.default_rng(seed)
    outcomes = {"opened": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        (folder / "factory.py").write_text(FACTORY)
        options = Options(factory=f"{folder / 'factory.py'}:build", inputs=("input float32[batch, 6]",))
        wholes = whole_files(folder / "files", program)
        for whole in wholes:  # undamaged, all are read
            open_source(whole, options, None, True)
        for number in range(count):
            whole = wholes[number % len(wholes)]
            path = folder / f"damaged{whole.suffix}"
            path.write_bytes(damage(whole.read_bytes(), chance))
            print(f"{number} {whole.name}", file=sys.stderr)
            try:
                open_source(path, options, None, whole.name in TRUSTED)
                outcomes["opened"] += 1
            except WorkbenchError as error:
                outcomes["refused"] += 1
                if not (error.message and error.remedy):
                    print(f"{number} {whole.name}: no words")
            except Exception as error:
                print(f"{number} {whole.name}: {type(error).__name__}: {error}")
    print(f"{outcomes['opened']} opened, {outcomes['refused']} refused")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{peak} MB at most", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "all", int(sys.argv[3]))
