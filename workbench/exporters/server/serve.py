"""Serves ONNX models with the Open Inference Protocol V2: python serve.py --help."""

from __future__ import annotations

import argparse
import ctypes
import functools
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    import uvloop

    from .board import Board
    from .config import MOST_WORKERS, CannotStart, Config, read_config, read_key
    from .listeners import bind, check_open
    from .logs import EcsLines, log_to_stderr
    from .models import Loader, Models
    from .server import serve
    from .workers import Report, Supervisor
else:
    sys.dont_write_bytecode = True  # a package stays as its checksums say
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until there is something to end in order
    from missing import say_missing

    try:
        import uvloop
        from board import Board
        from config import MOST_WORKERS, CannotStart, Config, read_config, read_key
        from listeners import bind, check_open
        from logs import EcsLines, log_to_stderr
        from models import Loader, Models
        from server import serve
        from workers import Report, Supervisor
    except ImportError as error:
        print(f"serve.py cannot start. {say_missing(error)}", file=sys.stderr)
        sys.exit(2)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of the C library's settings
LARGE_BLOCK = 2 << 20  # bytes: larger ones go back to the system as soon as they are free

log = logging.getLogger("serve")


def _work(
    folder: Path,
    key: bytes | None,
    board: Board,
    listener: socket.socket,
    grpc: socket.socket | None,
    config: Config,
    row: int,
    lifeline: int | None,
    report: Report,
) -> int:
    """Loads the models and serves them; returns the exit code."""
    try:
        loader = Loader(folder, config, board)
        models = Models([loader.load(model) for model in config.models], key, board)
        uvloop.run(serve(config, models, loader, listener, grpc, report, lifeline))
    except CannotStart as reason:
        report({"refused": str(reason)})
        return 2
    return 0


def _run(folder: Path, config: Config, arguments: argparse.Namespace) -> None:
    """Serves until a signal comes, in this process or in workers.

    Raises:
        CannotStart: If it cannot.
    """
    count = arguments.workers or config.workers
    key = read_key(config)
    listener = bind(arguments.host, arguments.port)
    check_open(listener, key, arguments.open)
    host, port = listener.getsockname()[:2]
    next_port = arguments.port + 1 if arguments.port else 0
    grpc_port = next_port if arguments.grpc_port is None else arguments.grpc_port
    board = Board(count)
    start: dict[str, Any] = {"event.action": "start", "server.address": host, "server.port": port}
    about = "; ".join(f"{model.name} {model.version} on {model.backend}, {model.provider}" for model in config.models)

    def announce(grpc: int | None) -> None:
        if grpc is not None:
            start["labels.grpc_port"] = grpc
        log.info("Serving %s", about, extra={"fields": start})

    grpc = bind(arguments.host, grpc_port, "--grpc-port") if config.grpc else None
    work = functools.partial(_work, folder, key, board, listener, grpc)
    if count == 1:
        refused: list[str] = []

        def heard(report: dict[str, Any]) -> None:
            if "ready" in report:
                announce(report["ready"])
            elif "refused" in report:
                refused.append(report["refused"])

        if work(config, 0, None, heard):
            raise CannotStart(refused[0])
    else:
        start["labels.workers"] = count
        reread = functools.partial(read_config, folder / "config.json")
        Supervisor(config, reread, board, [one for one in (listener, grpc) if one], work).run(announce)
    log.info("Stopped", extra={"fields": {**start, "event.action": "stop"}})


def _keep_memory_small() -> None:
    """Has the GNU C library keep no large free blocks: by itself it would keep ever larger ones, up to 32 MB each."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE_BLOCK)


def main() -> int:
    """Serves until a signal comes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, help="port for gRPC (default: the one after that)")
    parser.add_argument("--open", action="store_true", help="listen to other machines although there is no key")
    parser.add_argument("--workers", type=int, help="processes that answer side by side (default: as config.json says)")
    arguments = parser.parse_args()
    if arguments.workers is not None and not 1 <= arguments.workers <= MOST_WORKERS:
        parser.error(f"--workers must be 1 to {MOST_WORKERS}")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to change
    handler = log_to_stderr()
    _keep_memory_small()
    folder = Path(__file__).resolve().parent
    try:
        config = read_config(folder / "config.json")
        names = dict.fromkeys(model.name for model in config.models)
        handler.setFormatter(EcsLines({"service.name": ",".join(names)}))
        _run(folder, config, arguments)
    except CannotStart as reason:
        print(f"serve.py cannot start. {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
