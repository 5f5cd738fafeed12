"""Work under a limit of time and memory, from any thread: worker processes that can be ended.

SymPy cannot be stopped from inside: a power of powers is one call in C. So what may run long is done by processes
of its own, under a limit of processor time (not of the clock: a busy machine changes no result) and of memory. A job
over its limit has no result; its worker is replaced, and no other job is touched.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from probe.errors import ProbeError

SECONDS = 1.5
"""Processor time of one job."""
MEMORY = 3 * 2**30
"""Address space of a worker, in bytes."""
CLOCK = 120.0
"""Seconds by the clock after which a worker is ended that does not even use its processor time."""

ROOT = Path(__file__).resolve().parents[3]
START = (
    "import json, sys; sys.path.extend(json.loads(sys.argv[1])); from analyses.core.reading import timed; timed.serve()"
)

_LOCK = threading.Lock()
_IDLE: list[_Worker] = []


class _Worker:
    """One process that does jobs line by line."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        # This code's own folder first; where else this process looks comes last: a file of a person's that is called
        # like a module of Python's (types.py beside a script) must not be in the worker's way.
        first = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        last = json.dumps([p or os.getcwd() for p in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, last],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the other side: a job it ended here would count as over its limit
            env={**os.environ, "PYTHONPATH": first, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[str] = self.process.stdin
        self.stdout: IO[str] = self.process.stdout

    def do(self, job: Sequence[object]) -> Any:
        """The job's result; None where it went over its limits (the worker is gone then)."""
        watch = threading.Timer(CLOCK, self.process.kill)
        watch.start()
        try:
            self.stdin.write(json.dumps(job) + "\n")
            self.stdin.flush()
            line = self.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if line:
            return json.loads(line)
        code = self.process.wait()
        if code >= 0:
            self.errors.seek(0)
            raise ProbeError(f"a worker ended with code {code}: {self.errors.read().decode(errors='replace')[-2000:]}")
        return None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for handle in (self.stdin, self.stdout, self.errors):
            handle.close()


def done(jobs: Sequence[Sequence[object]]) -> list[Any]:
    """Results of jobs `[function of mathematics, *arguments]`, in order; None for one over its limits."""
    if not jobs:
        return []
    with _LOCK:  # threads of a dashboard take turns: the workers are few
        n_workers = max(1, min(os.cpu_count() or 1, 4, len(jobs) // 16))
        waiting: Iterator[tuple[int, Sequence[Any]]] = iter(enumerate(jobs))
        results: list[object] = [None] * len(jobs)
        taking = threading.Lock()

        def work(_: int) -> None:
            worker = _taken()
            while True:
                with taking:
                    number, job = next(waiting, (-1, ()))
                if number < 0:
                    break
                results[number] = worker.do(job)
                if worker.process.poll() is not None:
                    worker.close()
                    worker = _Worker()
            _IDLE.append(worker)

        if n_workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(n_workers) as threads:
                list(threads.map(work, range(n_workers)))
    return results


def _taken() -> _Worker:
    while _IDLE:
        worker = _IDLE.pop()
        if worker.process.poll() is None:
            return worker
        worker.close()
    return _Worker()


@atexit.register
def _close() -> None:
    while _IDLE:
        _IDLE.pop().close()


class _OverTime(BaseException):
    """Not an Exception: the libraries catch those."""


def serve() -> None:
    """The worker's side: read a job, do it under the limits, write its result."""
    from analyses.core.reading import mathematics

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    limited = _limits()
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        try:
            limited(SECONDS)
            try:
                result = getattr(mathematics, function)(*arguments)
            finally:
                limited(0)
        except (_OverTime, MemoryError, *mathematics.CANNOT):
            result = None
        replies.write(json.dumps(result) + "\n")
        replies.flush()


def _limits() -> Any:
    """A function that sets the processor time left; at its end a Python exception, half as much later the process.

    Where the system has no such timers (Windows) only the clock of the other side limits.
    """

    if not hasattr(signal, "ITIMER_PROF"):
        return lambda _: None

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def over(*_: object) -> None:
        raise _OverTime

    signal.signal(signal.SIGPROF, over)

    def limited(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_VIRTUAL, 1.5 * seconds)  # its signal ends a process that is deep in C

    return limited
