"""What differs between kinds of device, in one place: nothing else asks what kind a device is.

Everything else is written for any device: a tensor is made where its partners are (`device=x.device`, `.to(x)`),
and numbers leave by `.cpu()`. Importing this does not import torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from probe.errors import InputError
from probe.lazily import torch

HOST = ("cpu", "disk", "meta")
WITHOUT_DOUBLE = ("mps",)
ROWS_AT_ONCE = {"cpu": 512, "cuda": 65536}
OTHER_ROWS = 4096
"""More rows bring no speed: a matrix product of this height already runs at the machine's rate, and on a CPU
the element-wise steps between two products get slower once their operands leave the cache."""


def kind(device: str | torch.device) -> str:
    """The kind of a device, without its number: `cpu`, `cuda`, ..."""
    return str(device).partition(":")[0]


def check(name: str) -> None:
    """Refuse a device that cannot be used, before any weight is read.

    Raises:
        InputError: no device of PyTorch's, one that this machine lacks, or one that cannot add in float64.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name!r} is no device of PyTorch's: {error}") from error
    if kind(device) in WITHOUT_DOUBLE:
        raise InputError(f"device={name!r} has no float64, in which metrics are summed; use device='cpu'")
    there = 1 if kind(device) == "cpu" else _count(device)
    if there <= (device.index or 0):
        what = kind(device).upper()
        raise InputError(
            f"device={name!r}: PyTorch {torch.__version__} sees {there} {what} devices here; use device='cpu'"
        )


def has_numbers(x: torch.Tensor) -> bool:
    """Whether a tensor holds numbers: a parameter that a device map put elsewhere has only a shape."""
    return x.device.type != "meta"


def _count(device: torch.device) -> int:
    try:
        return int(torch.get_device_module(device).device_count())
    except (RuntimeError, AttributeError):
        return 0


def named(placed: str | Mapping[str, str | int] | None) -> set[str]:
    """The accelerators a placement names: a device, a JSON or plain device map; `auto` names all CUDA sees."""
    if placed is None:
        return set()
    if placed == "auto":
        return {f"cuda:{n}" for n in range(torch.cuda.device_count())}
    if isinstance(placed, str):
        placed = json.loads(placed) if placed.startswith("{") else {"": placed}
    values: Iterable[str | int] = placed.values() if isinstance(placed, Mapping) else ()
    return {f"cuda:{v}" if isinstance(v, int) else v for v in values if kind(str(v)) not in HOST}


def gpus(placed: str) -> int:
    """How many CUDA devices a placement takes (what a cluster's scheduler counts)."""
    return len({name for name in named(placed) if kind(name) == "cuda"})


def free_bytes(device: str | torch.device) -> int:
    """Memory that can still be taken on the device, in bytes."""
    if kind(device) not in HOST:
        told: Any = getattr(torch.get_device_module(device), "mem_get_info", None)
        if told is not None:
            return int(told(device)[0])
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 4 * 2**30


def rows_at_once(device: torch.device) -> int:
    """Rows of one call of a block beyond which more bring no speed."""
    return ROWS_AT_ONCE.get(kind(device), OTHER_ROWS)


def takes_grouped_heads(device: torch.device) -> bool:
    """Whether fused attention under a mask reads grouped key heads as they are, at no loss of speed."""
    return kind(device) == "cpu"


def wait(device: str | torch.device) -> None:
    """Return when all work given to the device is done (for clocks)."""
    if kind(device) not in HOST:
        torch.get_device_module(device).synchronize()


def let_go() -> None:
    """Hand cached blocks of every accelerator back, so that the next allocation does not meet memory in pieces."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def most_memory() -> int | None:
    """The most bytes this process has held on the current accelerator; None where none was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.max_memory_allocated()


def own_random_numbers() -> AbstractContextManager[None]:
    """What is drawn inside, on the CPU or an accelerator, leaves the generators outside as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def is_out_of_memory(error: BaseException) -> bool:
    """Accelerators have a class for it, PyTorch's CPU allocator a message, NumPy and Python one of their own."""
    by_name = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return by_name or isinstance(error, MemoryError)
