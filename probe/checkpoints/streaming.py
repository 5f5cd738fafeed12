"""Weights that stay in their files: a model larger than memory, read block by block as its pass comes to it.

A checkpoint read in the number format of its safetensors is a view of the files: nothing is copied, and pages come in
when they are first touched. Streaming asks for the next block's pages while one computes (the kernel reads ahead, so
that reading and computing overlap) and marks those of a block cold once it has: they are the first to go when memory
is wanted, and stay while it is not. Every analysis runs unchanged; only its time does not. Pages written to (an edited
weight) are kept by the kernel, never lost.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import families
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from torch import nn

STREAM = "stream"
"""The device map (and the `--device`) that says so."""

WILL_NEED, COLD = 3, 20


def stream(model: Any, folder: Path) -> Any:
    """The model, its blocks' pages asked for before their passes and marked cold after them.

    Raises:
        InputError: another system than Linux, or weights that are no views of their files (read in another number
            format, or made of shards or an adapter), so that all of them would be in memory.
    """
    if platform.system() != "Linux":
        raise InputError(f"device {STREAM!r} works on Linux, not on {platform.system()}; use device='cpu'")
    copied = _copied(model)
    if copied:
        raise InputError(
            f"{folder}: {len(copied)} parameters (e.g. {copied[0]}) are copied into memory, not read from their files: "
            f"give the files' own number format (--dtype; here {model.dtype} was asked for) and whole safetensors, "
            "adapters merged"
        )
    blocks = _blocks(model)
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(_before(blocks[(number + 1) % len(blocks)]))
        block.register_forward_hook(lambda module, _args, _out: _advise(module, COLD))
    return model


def _before(following: nn.Module) -> Callable[[nn.Module, object], None]:
    """A block's hook that asks for the pages of the one behind it."""
    return lambda _module, _args: _advise(following, WILL_NEED)


def _blocks(model: Any) -> list[nn.Module]:
    n = families.n_layers(families.text_config(model.config))
    found = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)
    return list(found)


def _copied(model: Any) -> list[str]:
    """Parameters that lie in no file of this process's memory map."""
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        if line.rstrip().endswith(".safetensors")
    ]
    named = model.named_parameters()
    return [name for name, p in named if not any(low <= p.data_ptr() < high for low, high in spans)]


def _advise(module: nn.Module, what: int) -> None:
    """Tell the kernel about the whole pages of a module's parameters. Advice: a refusal changes no number."""
    libc = ctypes.CDLL(None)
    for parameter in module.parameters():
        x = parameter.data
        start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = x.data_ptr() + x.numel() * x.element_size() - start
        if length > 0:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), what)
