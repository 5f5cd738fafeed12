"""What every peer's script shares: it answers each line `way` with what that took, and keeps its values as .npz."""

from __future__ import annotations

import ctypes
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def serve(ways: dict[str, Callable[[], dict[str, np.ndarray]]], folder: Path) -> None:
    """Run the way named on each line of standard input: processor seconds and growth of the peak resident set."""
    torch.set_num_threads(1)
    print(json.dumps({"versions": {"torch": torch.__version__}}), flush=True)
    for line in sys.stdin:
        took, grown, values = measured(ways[line.strip()])
        np.savez(folder / f"{line.strip()}.npz", **values)
        print(json.dumps({"seconds": took, "mebibytes": grown}), flush=True)


def measured(way: Callable[[], dict[str, np.ndarray]]) -> tuple[float, float, dict[str, np.ndarray]]:
    """Processor seconds, growth of the peak resident set in MiB (the kernel's mark is reset first), and the values."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory freed before, and kept by the allocator, hides growth
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    values = way()
    took = time.process_time() - start
    return took, (kibibytes("VmHWM") - before) / 1024, values


def kibibytes(field: str) -> int:
    """A field of this process's status."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
