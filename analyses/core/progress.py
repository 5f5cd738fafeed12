"""Work that takes longer than a moment: a bar that says how far it is, and Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever it happens to be. Inside a finaliser or the callback of a weak reference, and a
run with PyTorch has many of both, the exception is printed and forgotten, and what was to be stopped goes on. So while
something is computed a press only sets a flag, and `heard` raises in ordinary code, where an exception goes up. Every
loop that runs under `progress` hears it; one that takes longer than a batch and has no bar calls `heard` itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
TOLD = b"\nstopping after this batch; press Ctrl-C again to stop at once\n"


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar and ETA on standard error once it takes more than two seconds; Ctrl-C is heard before each."""

    quiet = True if os.environ.get("PROBE_PROGRESS") == "0" else None  # None: only on a terminal
    for item in tqdm(items, desc=what, total=total, delay=2, leave=False, disable=quiet):
        heard()
        yield item


@dataclass
class _Presses:
    """How often Ctrl-C was pressed since the outermost `interruptible` was entered."""

    count: int = 0


_presses = _Presses()


@contextmanager
def interruptible() -> Iterator[None]:
    """Presses of Ctrl-C inside are kept: `heard` raises on the first one, the second one raises wherever it comes.

    One that nobody heard is raised at the end, so that a script does not go on with its next run. Where somebody else
    handles the signal (a program around us, an outer `interruptible`), or in a thread, nothing is changed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; from an error of the block, if that came first.
    """
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    _presses.count = 0
    signal.signal(signal.SIGINT, _press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed, _presses.count = _presses.count, 0
        if pressed and isinstance(sys.exception(), Exception | None):  # one on its way out already is enough
            raise KeyboardInterrupt


def heard() -> None:
    """Called between batches.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed since the outermost `interruptible` was entered.
    """
    if _presses.count:
        raise KeyboardInterrupt


def _press(_number: int, _frame: FrameType | None) -> None:
    _presses.count += 1
    if _presses.count > 1:
        raise KeyboardInterrupt  # lost in a finaliser, it is still heard at the next batch
    with suppress(OSError):  # a closed terminal cannot be told
        os.write(2, TOLD)  # not through a stream, which may be in the middle of a line
