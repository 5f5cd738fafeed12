"""A peer in a process of its own: its environment, made where it is not there yet, and the talk with its script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent
ENVIRONMENTS, SCRIPTS = FOLDER / ".envs", FOLDER / "peer_scripts"

Values = dict[str, np.ndarray]


class Unavailable(Exception):
    """A peer that cannot be had here."""


def environment(name: str, *packages: str, versions: str = "constraints.txt") -> Path:
    """The Python of an environment with `packages` and our build of torch, made where it is not there yet.

    `versions`: the constraints it keeps to; "" for those the packages choose, where they exclude ours.

    Raises:
        Unavailable: it could not be made.
    """
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / "ready"
    # torch alone and first, else an index's newest build comes with gigabytes of CUDA.
    steps = [
        [f"torch=={torch.__version__.partition('+')[0]}"],
        list(packages),
        *([] if versions == "constraints.txt" else [[versions]]),
    ]
    kept = ["-c", versions] if versions else []
    if ready.is_file() and ready.read_text() == repr(steps):
        return python
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *kept]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], *([*pip, *s] for s in steps[:2])):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=FOLDER.parent)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
            told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise Unavailable(f"its environment could not be made: {told[-1] if told else error}") from error
    ready.write_text(repr(steps))
    return python


class Peer:
    """A script that does one way of the work whenever it is asked to."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        self.process, self.folder, self.log = process, folder, log
        self._answer()

    def __call__(self, way: str) -> tuple[float, float, Values]:
        """Processor seconds, growth of the peak resident set in MiB, and values."""
        assert self.process.stdin is not None
        print(way, file=self.process.stdin, flush=True)
        told = self._answer()
        return told["seconds"], told["mebibytes"], dict(np.load(self.folder / f"{way}.npz"))

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"its script ended: {(self.log.read_text().strip().splitlines() or ['?'])[-1]}")
        return json.loads(line)


@contextmanager
def peer(script: str, python: Path, folder: Path) -> Iterator[Peer]:
    """The running script, on one thread."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    quiet.pop("PYTHONPATH", None)
    log = folder / f"{script}.log"
    command = [
        str(python),
        str(SCRIPTS / f"{script}.py"),
        str(folder / "model"),
        str(folder / "tokens.npz"),
        str(folder),
    ]
    with log.open("w") as errors, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=quiet
    ) as process:  # fmt: skip
        try:
            yield Peer(process, folder, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
