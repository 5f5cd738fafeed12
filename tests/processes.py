"""Processes that tests start: waited for until they are ready, and ended with the test whatever happened in it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process in a session of its own; it and what it has started end with the block."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(ready: Callable[[], T], process: subprocess.Popen[Any] | None = None) -> T:
    """What `ready` gives once it gives something; a process that ended before is an error at once.

    No clock but pytest's own limit: how long a machine takes says nothing about what is tested.
    """
    while True:
        ended = process is not None and process.poll() is not None
        if found := ready():
            return found
        assert not ended, "the process ended before it was ready"
        time.sleep(0.05)
