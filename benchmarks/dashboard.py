"""The dashboard in a real browser: over 500 results with 1,000,000 rows, and over three runs as wide as real ones.

Times run from asking for the address in a fresh browser context (nothing cached) to the element being there: the
heading; every row of the first table, visible; the figure's axes. The grid of all rows is timed from its click. The
server has started, and has served nobody before the first of the repetitions. Memory is the server's peak after all
that was shown. The wide runs (`benchmarks._large`: 20 steps, 28 layers, 6 groups) are timed alike; none of their pages
may be taller than 4,000 pixels, on a screen and on a phone. Beside a time stands what all processes computed in it.

In parts, each with a server of its own, whose rows replace those of the part's last time in RESULTS.md:
`python -m benchmarks.dashboard FOLDER PART ...`, where the folder is filled if it is empty.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.result import Result
from analyses.core.store.store import SCHEMA, Store
from apps.dashboard import pages
from apps.dashboard.serve import command, environment
from apps.dashboard.widgets.tables import ALL, FIRST_ROWS
from benchmarks import _large, _rows, _spent, _verify
from benchmarks.__main__ import PAGE
from benchmarks.__main__ import page as page_of

Row: TypeAlias = dict[str, Any]
Part: TypeAlias = Callable[[Any, str], list[Row]]  # takes a browser and the server's address

WANTED = ("heading", "table", "figure")
RESULTS, ROWS, BIG = 500, 1_000_000, 100_000
STEPS, LAYERS = list(range(0, 200, 20)), 12
LIMITS = {"heading": 1.5, "table": 1.5, "figure": 2.5, "grid": 1.5, "slider step": 0.3, "memory": 600.0}
TALLEST = 4000
SCREENS = {"1280 px": (1280, 800), "390 px": (390, 844)}
TALL = "document.querySelector('[data-testid=stMain]').scrollHeight"
REPEATS, SLIDES = 5, 8
CPU = " of processors"
LAST_ROW = f"[data-testid=stMarkdownContainer] tbody tr:nth-child({FIRST_ROWS}) td"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)
# A figure taken down for a moment counts as not yet redrawn. Numbers come packed, as one text, or as they are.
DRAWN = "document.querySelector('.js-plotly-plot')?.data?.map(t => JSON.stringify([t.y, t.z])).join()"
CHANGED = f"before => {{ const now = {DRAWN}; return now !== undefined && now !== before; }}"


def made(number: int, rows: int) -> Result:
    """A sweep as the runner stores it, with random numbers: of the logit lens, or (odd numbers) of perplexity."""
    rng = np.random.default_rng(number)
    per_step = rows // len(STEPS)
    place, size = np.tile(np.arange(per_step), len(STEPS)), per_step * len(STEPS)
    table: dict[str, Any] = {"step": np.repeat(STEPS, per_step), "item": (place // (4 * LAYERS)).astype(str)}
    table |= {"group": np.where(place % 2, "leaked", "unseen"), "answer_kind": "given"}
    dims: dict[str, Any] = {"step": STEPS, "group": ["leaked", "unseen"], "answer_kind": ["given"]}
    if number % 2:
        table |= {"mask": np.where(place % 3, "answer", "prompt"), "nll_nats": rng.random(size), "n_tokens": 9}
        dims |= {"mask": ["prompt", "answer", "full"], "variant": ["micro", "macro"]}
        quantities = (("ppl", "1"), ("nll_nats", "nats/token"))
    else:
        table |= {"layer": place % LAYERS, "pos": place // LAYERS % 4, "target": rng.integers(0, 1000, size)}
        table |= {"logprob_nats": rng.normal(-3, 1, size), "rank": rng.integers(0, 100, size)}
        dims |= {"layer": list(range(LAYERS))}
        quantities = (("logprob_nats", "nats"), ("top1", "fraction"), ("entropy_nats", "nats"))
    data = xr.merge([estimate(name, unit, dims, rng) for name, unit in quantities])
    return Result.of(pd.DataFrame(table), data).with_record(**record(number))


def estimate(name: str, unit: str, dims: dict[str, Any], rng: np.random.Generator) -> xr.Dataset:
    """A random quantity with its companions."""
    values = 5 + rng.normal(size=tuple(map(len, dims.values()))).cumsum(axis=0)
    parts: dict[str, Any] = {name: (tuple(dims), values, {"units": unit})}
    parts |= {f"{name}_ci_low": (tuple(dims), values - 0.3), f"{name}_ci_high": (tuple(dims), values + 0.3)}
    return xr.Dataset(parts | {f"{name}_n": (tuple(dims), np.full(values.shape, 96))}, dims)


def record(number: int) -> dict[str, Any]:
    """Provenance of result ``number``: fifty runs with ten sweeps each."""
    run = f"runs/run-{number // 10:02d}"
    members = [{"step": s, "key": "0" * 16, "model": {"path": f"{run}/checkpoint-{s}", "step": s}} for s in STEPS]
    return {
        "schema": SCHEMA, "key": hashlib.sha256(str(number).encode()).hexdigest()[:16],
        "analysis": "perplexity" if number % 2 else "logit_lens",
        "kind": "sweep", "inputs": {"prompts": {"source": f"prompts-{number % 10}.jsonl"}}, "members": members,
        "upstream": {}, "options": {"seed": number % 10}, "warnings": [], "seconds": 1.0, "code": "", "loading": {},
        "started": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}+00:00", "environment": {},
    }  # fmt: skip


def fill(root: Path) -> Store:
    """500 results with 1,000,000 rows, one of them with 100,000."""
    store = Store(root)
    rest = (ROWS - BIG) // (RESULTS - 1)
    for number in range(RESULTS):
        store.put(made(number, BIG if number == RESULTS - 2 else rest))
    return store


@contextmanager
def served(store: Store) -> Iterator[tuple[str, int]]:
    """(address, process id) of a dashboard."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command(store, "127.0.0.1", port), env=environment("127.0.0.1"), **quiet)
    try:
        _answers(f"http://127.0.0.1:{port}/_stcore/health")
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.terminate()
        server.wait(timeout=10)


def _answers(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def peak_mib(pid: int) -> float:
    """Largest resident memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def opened(browser: Any, url: str, wanted: tuple[str, ...] = WANTED) -> tuple[dict[str, float], Any]:
    """Seconds until what is wanted is there, and the page."""
    page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
    start, spent = time.perf_counter(), _spent.spent()
    page.goto(url, wait_until="commit")
    waits: dict[str, Callable[[], Any]] = {
        "heading": lambda: page.wait_for_selector("h3"),
        "table": lambda: page.wait_for_selector(
            f"[data-testid=stMarkdownContainer] tbody tr:nth-child({FIRST_ROWS}) td"
        ),
        "figure": lambda: page.wait_for_selector(".js-plotly-plot .main-svg"),
    }
    found: dict[str, float] = {}
    for name in wanted:
        waits[name]()
        found[name], found[f"{name}{CPU}"] = time.perf_counter() - start, _spent.since(spent)
    return found, page


def grid(page: Any) -> float:
    """Seconds from asking for all estimates to their grid being drawn."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    start = time.perf_counter()
    page.locator("label", has_text=ALL).click()
    page.wait_for_selector("[data-testid=stDataFrame] canvas")
    return time.perf_counter() - start


def slides(page: Any) -> tuple[list[float], list[float]]:
    """Seconds from a key press on the step slider to the redrawn figure, and those of the processors."""
    page.wait_for_timeout(1500)
    slider = page.get_by_role("slider").first
    slider.focus()
    found, computed = list[float](), list[float]()
    for _ in range(SLIDES):
        before, spent = page.evaluate(DRAWN), _spent.spent()
        start = time.perf_counter()
        slider.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=before, polling="raf")
        found.append(time.perf_counter() - start)
        computed.append(_spent.since(spent))
        page.wait_for_timeout(300)
    return found, computed


def visits(browser: Any, url: str, wanted: tuple[str, ...]) -> dict[str, list[float]]:
    """Quantity -> seconds: of the first visitor, who comes alone, and of `REPEATS` later ones."""
    first, page = opened(browser, url, wanted)
    times = {f"{name}, first visitor": [seconds] for name, seconds in first.items()}
    for _ in range(REPEATS):
        page.context.close()
        found, page = opened(browser, url, wanted)
        for name, seconds in found.items():
            times.setdefault(name, []).append(seconds)
    if "table" in wanted:
        times["slider step"], times[f"slider step{CPU}"] = slides(page)
        times["grid"] = [grid(page)]
    page.context.close()
    return times


def heights(browser: Any, url: str) -> list[Row]:
    """The tallest page of the wide runs on each screen."""
    rows: list[Row] = []
    for screen, (width, height) in SCREENS.items():
        found: list[tuple[int, str]] = []
        for title in [*pages.titles(), *(f"Results&analysis={name}" for name in _large.OF)]:
            page = browser.new_context(viewport={"width": width, "height": height}).new_page()
            page.goto(f"{url}/?page={title}")
            page.wait_for_selector("h3, h2")
            page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)
            page.wait_for_timeout(1000)
            found.append((int(page.evaluate(TALL)), title.replace("&analysis=", " of ")))
            page.context.close()
        pixels, title = max(found)
        rows.append(_bounded(f"tallest page, {screen}", pixels, TALLEST, f"{title}, {pixels} px of {TALLEST}"))
    return rows


def timed(wanted: tuple[str, ...], address: str = "") -> Part:
    """A part that times one address."""
    return lambda browser, url: [
        _row(name, seconds, times.get(CPU.join(re.split("(?=,|$)", name, maxsplit=1))))
        for times in [visits(browser, url + address, wanted)]
        for name, seconds in times.items()
        if CPU not in name
    ]


LENS = "/?page=Results&analysis=logit_lens"
PARTS: dict[str, tuple[str, Part]] = {
    "500 results": ("many", timed(WANTED, f"{LENS}&key={record(RESULTS - 2)['key']}")),
    "500 results on page Run": ("many", timed(WANTED[::2])),
    "wide runs": ("wide", timed(WANTED, LENS)),
    "wide runs on page Run": ("wide", timed(WANTED[::2])),
    "pages of wide runs": ("wide", heights),
}


def filled(root: Path, of: str) -> Store:
    """One of the two stores in ``root``, made where it is not there."""
    folder, made = root / of, root / f"{of}.part"
    if not folder.exists():
        shutil.rmtree(made, ignore_errors=True)
        {"many": fill, "wide": _large.fill}[of](made)
        made.rename(folder)
    return Store(folder)


def measured(root: Path, name: str) -> list[Row]:
    """Rows of one part: measured / allowed, with seconds in the note."""
    from playwright.sync_api import sync_playwright

    of, part = PARTS[name]
    store = filled(root, of)
    with sync_playwright() as playwright, served(store) as (url, pid):
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS.split())
        rows = part(browser, url)
        browser.close()
        peak = peak_mib(pid)
    told = f"{peak:.0f} MiB; allowed {LIMITS['memory']:.0f} MiB"
    rows.append(_bounded("server memory, peak", peak, LIMITS["memory"], told))
    return [{**row, "name": f"{row['name']}, {name}"} for row in rows]


def chromium() -> str | None:
    """Path of the browser; None where there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def measure() -> list[Row]:
    """Rows of all parts."""
    if chromium() is None:
        return [{"name": "dashboard", "note": "no chromium on this machine"}]
    with tempfile.TemporaryDirectory() as folder:
        return [row for name in PARTS for row in measured(Path(folder), name)]


def _row(name: str, seconds: list[float], computed: list[float] | None = None) -> Row:
    limit = LIMITS[name.partition(",")[0]]
    low, middle, high = map(float, np.quantile(seconds, [0.25, 0.5, 0.75]))
    note = f"median {middle:.2f} s of {len(seconds)}, worst {max(seconds):.2f} s; allowed {limit:g} s; {_load()}"
    note += f"; {np.median(computed):.2f} s of processors" if computed else ""
    return {**_bounded(name, middle, limit, note), "spread": round((high - low) / limit, 3)}


def _bounded(name: str, value: float, limit: float, note: str) -> Row:
    ratio = {"ratio": round(value / limit, 3), "spread": None, "bound": 1.0, "holds": value <= limit}
    return {"name": f"dashboard: {name}", **ratio, "note": note}


def _load() -> str:
    """How busy the machine was: these are seconds on a clock, so other work counts."""
    return f"load {os.getloadavg()[0]:.0f} on {len(os.sched_getaffinity(0))} CPUs"


def main(folder: str, names: Sequence[str]) -> None:
    """Measure some parts and keep the rows of the others."""
    of = {name: measured(Path(folder), name) for name in names}
    kept = _rows.read().get("dashboard", {"rows": []})["rows"]
    for name in PARTS:
        of.setdefault(name, [row for row in kept if row["name"].endswith(f", {name}")])
    rows = [row for name in PARTS for row in of[name]]
    _rows.keep("dashboard", {"machine": _rows.machine(), "rows": rows})
    PAGE.write_text(page_of(_rows.read()))
    _verify.write()
    for row in (row for name in names for row in of[name]):
        print(row["name"], row["holds"], row["note"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or [*PARTS])
