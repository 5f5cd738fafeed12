"""Work that takes longer than a moment: a bar that says how far it is, and Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever it happens to be. Inside a finaliser or the callback of a weak reference, and a
run with PyTorch has many of both, the exception is printed and forgotten, and what was to be stopped goes on. So while
something is computed a press only sets a flag, and `heard` raises in ordinary code, where an exception goes up. Every
loop that runs under `progress` hears it; one that takes longer than a batch and has no bar calls `heard` itself.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType
from typing import Any, TypeVar

from tqdm import tqdm

from probe import devices

T = TypeVar("T")
TOLD = b"\nstopping after this batch; press Ctrl-C again to stop at once\n"


def progress(
    items: Iterable[T], what: str, total: int | None = None, said: Callable[[T], str] | None = None
) -> Iterator[T]:
    """Iterate under a bar, there at once, in a terminal or a notebook; Ctrl-C is heard before each item.

    Of batches the bar tells the tokens a second (padding counted), and what memory was held at most. Bars within bars
    stand below one another.

    Args:
        items: what is gone through.
        what: its name on the bar.
        total: how many there are, where `items` cannot tell.
        said: the bar's name while an item is worked on.
    """
    kind, quiet = _bar()
    bar = kind(items, desc=what, total=total, leave=False, disable=quiet, dynamic_ncols=True)
    began, tokens = time.monotonic(), 0
    _open.append(bar)
    try:
        for item in bar:
            heard()
            if said is not None:
                bar.set_description_str(said(item))
            yield item
            tokens += _tokens(item)
            rate = tokens / max(time.monotonic() - began, 1e-9)
            bar.set_postfix_str(f"{rate:,.0f} tokens/s, {_held()}" if tokens else _held(), refresh=False)
    finally:
        _open.remove(bar)
        bar.close()


def _bar() -> tuple[Any, bool | None]:
    """The kind of bar, and whether it is quiet; None: unless standard error is a terminal.

    A notebook's is a widget where ipywidgets is installed, else a line of text.
    """
    if os.environ.get("PROBE_PROGRESS") == "0":
        return tqdm, True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return tqdm, None
    if find_spec("ipywidgets") is None:
        return tqdm, False
    from tqdm.notebook import tqdm as widget  # imports ipywidgets

    return widget, False


@contextmanager
def doing(what: str) -> Iterator[None]:
    """The innermost bar says what is done in here, before its next item: "loading checkpoint-60".

    It has no batches, so that Ctrl-C stops it at once.
    """
    bar = _open[-1] if _open else None
    if bar is not None:
        bar.set_postfix_str(what)
    heard()
    _presses.at_once = True
    try:
        yield
    finally:
        _presses.at_once = False
    if bar is not None:
        bar.set_postfix_str("")


_open: list[Any] = []


def _tokens(item: object) -> int:
    """Tokens of a batch, padding counted; 0 of anything else."""
    counted: Callable[[], int] | None = getattr(getattr(item, "ids", None), "numel", None)
    return counted() if counted else 0


def _held() -> str:
    """The most memory this process has held, on the GPU where one is used."""
    if (on_gpu := devices.most_memory()) is not None:
        return f"{on_gpu / 1e9:.1f} GB of GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 1e9:.1f} GB"


@dataclass
class _Presses:
    """How often Ctrl-C was pressed since the outermost `interruptible` was entered, and whether one is enough now."""

    count: int = 0
    at_once: bool = False


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
    if _presses.count > 1 or _presses.at_once:
        raise KeyboardInterrupt  # lost in a finaliser, it is still heard at the next batch
    with suppress(OSError):  # a closed terminal cannot be told
        os.write(2, TOLD)  # not through a stream, which may be in the middle of a line
