"""Ctrl-C: a command stops after the step it is at, and says how to go on."""

import signal
import sys
from collections.abc import Callable
from typing import Any


def exit_status(why: KeyboardInterrupt) -> int:
    """Say how to go on after Ctrl-C, and return the exit status."""
    sys.stderr.write(f"tonsor: {why or 'stopped'}; to go on: tonsor {' '.join(sys.argv[1:])}\n")
    return 130


def stopper() -> Callable[[], bool]:
    """Let Ctrl-C ask the run to stop after the step it is at; a second one stops it at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write("\nstopping after this step; once more to stop at once\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return lambda: bool(asked)
