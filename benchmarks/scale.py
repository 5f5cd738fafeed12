"""Sweeps as they grow: time against items and checkpoints, the driver's memory against results, two workers.

Random Llama-shaped checkpoints on one thread and `perplexity` of equally long items, most of which is the bare
forward pass (2 FLOPs a weight and token): processor seconds for the exponents, wall clock for workers. Starting
Python and making checkpoints are left out; loading and proving each model is in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPE = {"num_hidden_layers": 3, "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8,
         "head_dim": 64, "max_position_embeddings": 128}  # fmt: skip
GROWTH = (1, 4, 16)
REPEATS = 2
SINGLE = {"items": (1, 192), "checkpoints": (1, 128)}  # checkpoints and items at 1x: one load costs as much as 40 items
WORKER_ITEMS, WORKER_REPEATS = 768, 1
FEW, MANY, ROW_ITEMS = 4, 64, 100

# The driver's own part: members are in the store already. The kernel's high-water mark is reset after one small
# sweep, which brings in what every sweep imports.
DRIVER = """
import re, sys
from pathlib import Path
from analyses import Store
from benchmarks.scale import rows_sweep
folder, n = Path(sys.argv[1]), int(sys.argv[2])
def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
rows_sweep(folder, 2, Store(folder / "first"))
start = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
found = rows_sweep(folder, n, Store(folder / "rows"))
print(kib("VmHWM") - start)
"""


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as name, one_thread():
        folder = Path(name)
        made(folder)
        return [*growth(folder), *memory(folder), *workers(folder)]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def made(folder: Path) -> None:
    """Checkpoints for the two kinds of work: arithmetic, and many rows."""
    from tests import tiny

    tiny.series(folder / "large", tuple(range(max(GROWTH))), **SHAPE)
    tiny.series(folder / "tiny", tuple(range(MANY)))


def prompts(n: int) -> Any:
    """Items of equal length."""
    from probe import Item, Prompts

    text = "Ann has 12 figs . buys 5 . loses 3 . how many ? " * 2
    return Prompts(tuple(Item(f"q{i:05d}", text, "think 12 + 5 = 17 ; ans 14") for i in range(n)))


def checkpoints(folder: Path, kind: str, n: int) -> list[Any]:
    """The first `n` of a series."""
    from probe import Checkpoint

    return [Checkpoint.of(folder / kind / f"checkpoint-{step}") for step in range(n)]


def swept(folder: Path, n_checkpoints: int, n_items: int, **options: Any) -> Any:
    """A compute-bound sweep into a store of its own."""
    from analyses import Store, sweep

    with tempfile.TemporaryDirectory(dir=folder) as store:
        series = checkpoints(folder, "large", n_checkpoints)
        return sweep("perplexity", checkpoints=series, prompts=prompts(n_items), store=Store(Path(store)), **options)


def rows_sweep(folder: Path, n: int, store: Any) -> Any:
    """A sweep that is nearly all rows: every layer's state of every answer token, on tiny models."""
    from analyses import sweep

    return sweep("logit_lens", checkpoints=checkpoints(folder, "tiny", n), prompts=prompts(ROW_ITEMS), store=store)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds by `clock`."""
    start = clock()
    call()
    return clock() - start


def load() -> str:
    """How busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


def growth(folder: Path) -> list[dict[str, Any]]:
    """Exponent of time over a sixteenfold growth, in items and in checkpoints."""
    out: list[dict[str, Any]] = []
    for what, (n_checkpoints, n_items) in SINGLE.items():

        def grown(times: int, c: int = n_checkpoints, i: int = n_items, what: str = what) -> object:
            return swept(folder, c * times, i) if what == "checkpoints" else swept(folder, c, i * times)

        grown(1)
        took = np.array([[seconds(lambda k=k, f=grown: f(k)) for k in GROWTH] for _ in range(REPEATS)])
        slopes = [float(np.polyfit(np.log(GROWTH), np.log(t), 1)[0]) for t in took]
        first, last = np.median(took[:, [0, -1]], axis=0)
        note = f"from {n_checkpoints} x {n_items}, {first:.2f} s of CPU on one thread, to 16 times as many {what}, "
        name = f"exponent of a sweep's time in {what}"
        out.append(row(name, slopes, "0.9 to 1.1", lambda x: 0.9 <= x <= 1.1, f"{note}{last:.1f} s; {load()}"))
    return out


def memory(folder: Path) -> list[dict[str, Any]]:
    """The driver's memory for 16 times the results."""
    from analyses import Store

    found = rows_sweep(folder, MANY, Store(folder / "rows"))
    rows_sweep(folder, 2, Store(folder / "first"))
    size = found.table.memory_usage(deep=True).sum() / 2**20 * (1 - FEW / MANY)
    grown: list[float] = []
    for n in (FEW, MANY):
        for store in ("rows", "first"):  # the sweeps' own results, not their members, which lie in .shards
            shutil.rmtree(folder / store / "logit_lens", ignore_errors=True)
        command = [sys.executable, "-c", DRIVER, str(folder), str(n)]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=quiet, timeout=300).stdout
        grown.append(int(told) / 1024)
    few, many = grown
    note = (
        f"logit_lens, {len(found.table):,} rows at {MANY} checkpoints, members in the store: peak resident set grows "
        f"by {few:.1f} MiB while {FEW} members are joined and by {many:.1f} MiB with {MANY}, "
        f"{1024 * (many - few) / (MANY - FEW):.0f} KiB for each of {1024 * size / (MANY - FEW):,.0f} KiB"
    )
    share = float((many - few) / size)
    name = "driver's further memory / the further results it joins"
    return [{"name": name, "ratio": share, "spread": "", "bound": "<= 0.1", "holds": share <= 0.1, "note": note}]


def workers(folder: Path) -> list[dict[str, Any]]:
    """Two Ray workers against this process, both on one thread each; the cluster's start counted, and left out."""
    from analyses.core.running.workers import Engine

    n, two = max(GROWTH), Engine("ray", 2)
    ways: dict[str, Callable[[], object]] = {
        "start": lambda: swept(folder, 2, 1, engine=two),
        "one": lambda: swept(folder, n, WORKER_ITEMS),
        "two": lambda: swept(folder, n, WORKER_ITEMS, engine=two),
    }
    took = {name: np.empty(WORKER_REPEATS) for name in ways}
    for i in range(WORKER_REPEATS):
        for name, way in ways.items():
            took[name][i] = seconds(way, time.perf_counter)
    one, start, both = np.median(took["one"]), np.median(took["start"]), np.median(took["two"])
    note = f"{n} checkpoints x {WORKER_ITEMS} items, {one:.0f} s and {both:.0f} s; {load()}"
    left = 1 / 1.7 - (both - start) / one
    begun = (
        f"the start, a sweep of 2 checkpoints x 1 item on a cluster of its own, takes {start:.1f} s: with it 1.7 is "
    )
    begun += f"reached by sweeps of more than {start / left:.0f} s" if left > 0 else "never reached"
    return [
        row("one process / two Ray workers (wall)", took["one"] / took["two"], ">= 1.7", lambda x: x >= 1.7, note),
        row("the same, start left out", took["one"] / (took["two"] - took["start"]), "", None, begun),
    ]


def row(
    name: str, ratios: Sequence[float] | np.ndarray, bound: str, holds: Callable[[float], bool] | None, note: str
) -> dict[str, Any]:
    """A row of the page."""
    low, middle, high = (float(x) for x in np.quantile(ratios, [0.25, 0.5, 0.75]))
    shown = {"name": name, "ratio": middle, "spread": f"{low:.2f}-{high:.2f}", "bound": bound}
    return {**shown, "holds": None if holds is None else holds(middle), "note": note}
