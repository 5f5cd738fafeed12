"""The dashboard over 500 results with 1,000,000 rows, timed in a real browser.

Times run from asking for the address in a fresh browser context (nothing cached) to the element being there: the
heading; every row of the first table, visible; the figure's axes. The grid of all rows is timed from its click. The
server has started, and has served nobody before the first of the repetitions. Memory is the server's peak after every
page was shown. Beside the 500 lie three runs as wide as a real one's (20 steps, 28 layers, 6 groups): no page of theirs
may be taller than 4,000 pixels, on a screen and on a phone.
"""

from __future__ import annotations

import hashlib
import os
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
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.result import Result
from analyses.core.store.store import SCHEMA, Store
from apps.dashboard import pages
from apps.dashboard.serve import command, environment
from apps.dashboard.widgets.tables import ALL, FIRST_ROWS

RESULTS, ROWS, BIG = 500, 1_000_000, 100_000
STEPS = list(range(0, 200, 20))
LIMITS = {"heading": 1.5, "table": 1.5, "figure": 2.5, "grid": 1.5, "slider step": 0.3, "memory": 600.0}
WIDE: dict[str, Any] = {"steps": list(range(0, 500, 25)), "layers": 28, "groups": [f"group {n}" for n in range(6)]}
RUNS, TALLEST = 3, 4000
SCREENS = {"1280 px": (1280, 800), "390 px": (390, 844)}
TALL = "document.querySelector('[data-testid=stMain]').scrollHeight"
REPEATS, SLIDES = 5, 8
LAST_ROW = f"[data-testid=stMarkdownContainer] tbody tr:nth-child({FIRST_ROWS}) td"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)
CHANGED = """b => {
 const p = document.querySelector('.js-plotly-plot');
 return p && p.data && JSON.stringify(p.data.map(t => Array.from(t.y||[]))) !== b}"""
# A figure taken down for a moment counts as not yet redrawn.
DRAWN = "() => JSON.stringify(document.querySelector('.js-plotly-plot').data.map(t => Array.from(t.y||[])))"


def made(
    number: int, rows: int, steps: Sequence[int] = STEPS, layers: int = 12, groups: Sequence[str] = ("leaked", "unseen")
) -> Result:
    """A sweep as the runner stores it, with random numbers: of the logit lens, or (odd numbers) of perplexity."""
    rng = np.random.default_rng(number)
    per_step = rows // len(steps)
    place, size = np.tile(np.arange(per_step), len(steps)), per_step * len(steps)
    table: dict[str, Any] = {"step": np.repeat(steps, per_step), "item": (place // (4 * layers)).astype(str)}
    table |= {"group": np.asarray(groups)[::-1][place % len(groups)], "answer_kind": "given"}
    dims: dict[str, Any] = {"step": list(steps), "group": list(groups), "answer_kind": ["given"]}
    if number % 2:
        table |= {"mask": np.where(place % 3, "answer", "prompt"), "nll_nats": rng.random(size), "n_tokens": 9}
        dims |= {"mask": ["prompt", "answer", "full"], "variant": ["micro", "macro"]}
        quantities = (("ppl", "1"), ("nll_nats", "nats/token"))
    else:
        table |= {"layer": place % layers, "pos": place // layers % 4, "target": rng.integers(0, 1000, size)}
        table |= {"logprob_nats": rng.normal(-3, 1, size), "rank": rng.integers(0, 100, size)}
        dims |= {"layer": list(range(layers))}
        quantities = (("logprob_nats", "nats"), ("top1", "fraction"), ("entropy_nats", "nats"))
    data = xr.merge([estimate(name, unit, dims, rng) for name, unit in quantities])
    return Result.of(pd.DataFrame(table), data).with_record(**record(number, steps))


def estimate(name: str, unit: str, dims: dict[str, Any], rng: np.random.Generator) -> xr.Dataset:
    """A random quantity with its companions."""
    values = 5 + rng.normal(size=tuple(map(len, dims.values()))).cumsum(axis=0)
    parts: dict[str, Any] = {name: (tuple(dims), values, {"units": unit})}
    parts |= {f"{name}_ci_low": (tuple(dims), values - 0.3), f"{name}_ci_high": (tuple(dims), values + 0.3)}
    return xr.Dataset(parts | {f"{name}_n": (tuple(dims), np.full(values.shape, 96))}, dims)


def record(number: int, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Provenance of result ``number``: fifty runs with ten sweeps each, then runs with two."""
    run = f"runs/run-{number // 10:02d}" if number < RESULTS else f"runs/wide-{(number - RESULTS) // 2}"
    members = [{"step": s, "key": "0" * 16, "model": {"path": f"{run}/checkpoint-{s}", "step": s}} for s in steps]
    return {
        "schema": SCHEMA, "key": hashlib.sha256(str(number).encode()).hexdigest()[:16],
        "analysis": "perplexity" if number % 2 else "logit_lens",
        "kind": "sweep", "inputs": {"prompts": {"source": f"prompts-{number % 10}.jsonl"}}, "members": members,
        "upstream": {}, "options": {"seed": number % 10}, "warnings": [], "seconds": 1.0, "code": "", "loading": {},
        "started": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}+00:00", "environment": {},
    }  # fmt: skip


def fill(root: Path) -> Store:
    """500 results with 1,000,000 rows, one of them with 100,000; three wide runs."""
    store = Store(root)
    rest = (ROWS - BIG) // (RESULTS - 1)
    for number in range(RESULTS):
        store.put(made(number, BIG if number == RESULTS - 2 else rest))
    for number in range(RESULTS, RESULTS + 2 * RUNS):
        store.put(made(number, 20_000, **WIDE))
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


def opened(
    browser: Any, url: str, wanted: tuple[str, ...] = ("heading", "table", "figure")
) -> tuple[dict[str, float], Any]:
    """Seconds until what is wanted is there, and the page."""
    page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
    start = time.perf_counter()
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
        found[name] = time.perf_counter() - start
    return found, page


def grid(page: Any) -> float:
    """Seconds from asking for all estimates to their grid being drawn."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    start = time.perf_counter()
    page.locator("label", has_text=ALL).click()
    page.wait_for_selector("[data-testid=stDataFrame] canvas")
    return time.perf_counter() - start


def slides(page: Any) -> list[float]:
    """Seconds from a key press on the step slider to the redrawn figure."""
    page.wait_for_timeout(1500)
    slider = page.get_by_role("slider").first
    slider.focus()
    found: list[float] = []
    for _ in range(SLIDES):
        before = page.evaluate(DRAWN)
        start = time.perf_counter()
        slider.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=before, polling="raf")
        found.append(time.perf_counter() - start)
        page.wait_for_timeout(300)
    return found


def heights(browser: Any, url: str) -> dict[str, tuple[int, str]]:
    """Screen -> (pixels of the tallest page of the wide runs, its name)."""
    found: dict[str, tuple[int, str]] = {}
    chosen = "".join(f"&run=wide-{n}" for n in range(RUNS))
    for screen, (width, height) in SCREENS.items():
        for title in pages.titles():
            page = browser.new_context(viewport={"width": width, "height": height}).new_page()
            page.goto(f"{url}/?page={title}{chosen}&of=wide-0&analysis=logit_lens&key={record(RESULTS)['key']}")
            page.wait_for_selector("h3, h2")
            page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)
            page.wait_for_timeout(1000)
            found[screen] = max(found.get(screen, (0, "")), (int(page.evaluate(TALL)), title))
            page.context.close()
    return found


def measure(root: Path | None = None) -> list[dict[str, Any]]:
    """Rows: measured / allowed, with seconds in the note.

    Args:
        root: a folder that ``fill`` filled; by default one is made for the while.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return [{"name": "dashboard", "note": "no chromium on this machine"}]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        store = Store(root) if root else fill(Path(folder))
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS.split())
        with served(store) as (url, pid):
            view = f"{url}/?page=Results&analysis=logit_lens&key={record(RESULTS - 2)['key']}"
            first, page = opened(browser, view)
            for name, seconds in first.items():
                times[f"{name}, first visitor"] = [seconds]
            for _ in range(REPEATS):
                page.context.close()
                found, page = opened(browser, view)
                for name, seconds in found.items():
                    times.setdefault(name, []).append(seconds)
                if len(times["heading"]) < REPEATS:
                    times.setdefault("grid", []).append(grid(page))
            times["slider step"] = slides(page)
            page.context.close()
            for _ in range(REPEATS):
                found, page = opened(browser, url, ("heading", "figure"))
                for name, seconds in found.items():
                    times.setdefault(f"{name}, page Run", []).append(seconds)
                page.context.close()
            tall = heights(browser, url)
            memory = peak_mib(pid)
        browser.close()
    return [*[_row(name, seconds) for name, seconds in times.items()], *map(_tall, tall.items()), _memory(memory)]


def _tall(found: tuple[str, tuple[int, str]]) -> dict[str, Any]:
    screen, (pixels, title) = found
    return {"name": f"dashboard: tallest page, {screen}", "ratio": round(pixels / TALLEST, 3), "spread": None,
            "bound": 1.0, "holds": pixels <= TALLEST, "note": f"{title}, {pixels} px of {TALLEST}"}  # fmt: skip


def _row(name: str, seconds: list[float]) -> dict[str, Any]:
    limit = LIMITS[name.partition(",")[0]]
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    note = f"median {middle:.2f} s of {len(seconds)}, worst {max(seconds):.2f} s; allowed {limit:g} s; {_load()}"
    spread = round(float(high - low) / limit, 3)
    return {"name": f"dashboard: {name}", "ratio": round(float(middle) / limit, 3), "spread": spread, "bound": 1.0,
            "holds": bool(middle <= limit), "note": note}  # fmt: skip


def _load() -> str:
    """How busy the machine was: these are seconds on a clock, so other work counts."""
    return f"load {os.getloadavg()[0]:.0f} on {len(os.sched_getaffinity(0))} CPUs"


def _memory(peak: float) -> dict[str, Any]:
    limit = LIMITS["memory"]
    return {"name": "dashboard: server memory, peak", "ratio": round(peak / limit, 3), "spread": None, "bound": 1.0,
            "holds": peak < limit, "note": f"{peak:.0f} MiB; allowed {limit:.0f} MiB"}  # fmt: skip


if __name__ == "__main__":
    for row in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(row)
