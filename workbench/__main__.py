"""Where the command line begins and ends, quietly too when it is interrupted or nobody reads on."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

_INTERRUPTED, _UNREAD = 130, 141  # exit codes: 128 and the number of SIGINT or SIGPIPE, as shells have them
_CANCELLED = "\nCancelled; nothing unfinished was kept.\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; ends with 130 after Ctrl+C, and with 141 if what reads its output is gone."""
    try:
        try:
            command_line = _import()
            command_line(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where it may fail
    except KeyboardInterrupt:
        sys.stderr.write(_CANCELLED)
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        if not (gone := _unread()):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in gone:
            os.dup2(nowhere, stream)  # what is left of the output has to go somewhere when Python ends
        raise SystemExit(_UNREAD) from None


def _import() -> Callable[[Sequence[str]], None]:
    """What runs a command; importing it takes a moment, in which Ctrl+C is meant too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where it is ignored, as for what runs in the background
        signal.signal(signal.SIGINT, _leave)
    from workbench._commands import command_line

    signal.signal(signal.SIGINT, before)
    return command_line


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Ends at once: libraries that are being imported may swallow an exception, or make another one of it."""
    os.write(2, _CANCELLED.encode())
    os._exit(_INTERRUPTED)


def _unread() -> list[int]:
    """Which of the output and the errors nobody reads any more."""
    watch = select.poll()
    for stream in (1, 2):
        watch.register(stream, 0)
    return [stream for stream, events in watch.poll(0) if events & select.POLLERR]


if __name__ == "__main__":
    main()
