"""A small store in the shape the runner writes, made without a model, and a browser to look at it."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.result import Result
from analyses.core.store import SCHEMA, Store
from tests.processes import started, until

HOSTILE = "<script>window.hacked=1</script>"
STEPS = (0, 30, 60, 90)
CHROMIUM = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
CHROMIUM += " --disable-component-update --disable-sync --disable-dev-shm-usage"
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def key(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def estimate(name: str, values: np.ndarray, dims: dict[str, Any], units: str, spread: float = 0.1) -> xr.Dataset:
    """An estimate with its companions, as analyses store it."""
    data = {name: (tuple(dims), values, {"units": units})}
    data |= {f"{name}_ci_low": (tuple(dims), values - spread), f"{name}_ci_high": (tuple(dims), values + spread)}
    return xr.Dataset(data | {f"{name}_n": (tuple(dims), np.full(values.shape, 8.0))}, dims)


def swept(name: str, run: str, table: pd.DataFrame, data: xr.Dataset, **record: Any) -> Result:
    """A result of a sweep with the record the runner writes."""
    members = [
        {"step": s, "key": key(name, run, s), "verdict": None, "model": {"path": f"{run}/checkpoint-{s}", "step": s}}
        for s in STEPS
    ]
    inputs = {"prompts": {"source": f"{run}/prompts.jsonl", "n": 4, "fingerprint": "f" * 32}}
    return Result.of(table, data, verdict=record.pop("verdict", None)).with_record(
        schema=SCHEMA, key=key(name, run), analysis=name, kind="sweep", pairs="first", inputs=inputs, upstream={},
        options={"batch_size": 8, "seed": 0}, members=members, started="2026-01-01T00:00:00+00:00", seconds=1.5,
        environment={"python": "3.11"}, code="0" * 16, loading={"dtype": "float32"}, **record,
    )  # fmt: skip


def perplexity(run: str, rise: float, warnings: tuple[str, ...] = ()) -> Result:
    masks, groups = ["prompt", "answer"], ["leaked", "unseen"]
    dims = {"step": list(STEPS), "mask": masks, "group": groups, "answer_kind": ["given"], "variant": ["micro"]}
    shape = tuple(map(len, dims.values()))
    values = 2.0 + rise * np.arange(4).reshape(-1, 1, 1, 1, 1) + np.zeros(shape)
    rows = [
        {"step": s, "item": i, "group": g, "mask": m, "answer_kind": "given", "nll_nats": 2.0 + rise * n, "n_tokens": 3}
        for n, s in enumerate(STEPS) for g in groups for i in (f"{g}-0", f"{g}-1") for m in masks
    ]  # fmt: skip
    data = xr.merge([estimate("nll_nats", np.log(values), dims, "nats/token"), estimate("ppl", values, dims, "1")])
    return swept("perplexity", run, pd.DataFrame(rows), data, warnings=list(warnings))


def lens(run: str, rise: float) -> Result:
    dims = {"step": list(STEPS), "layer": [0, 1, 2], "group": ["leaked", "unseen"], "answer_kind": ["given"]}
    values = -3.0 + np.arange(3).reshape(1, 3, 1, 1) + rise * np.arange(4).reshape(4, 1, 1, 1) + np.zeros((4, 3, 2, 1))
    rows = [
        {"step": s, "item": i, "group": i.partition("-")[0], "answer_kind": "given", "layer": layer, "pos": p,
         "target": p, "logprob_nats": -3.0 + layer + rise * n - 0.1 * p, "rank": 2 - layer, "token": t}
        for n, s in enumerate(STEPS) for i in ("leaked-0", "unseen-0", HOSTILE) for layer in range(3)
        for p, t in enumerate(("ans", HOSTILE, " 7"))
    ]  # fmt: skip
    parts = [estimate("logprob_nats", values, dims, "nats"), estimate("top1", np.exp(values), dims, "fraction")]
    data = xr.merge([*parts, estimate("entropy_nats", -values, dims, "nats")])
    return swept("logit_lens", run, pd.DataFrame(rows), data)


def staged(source: Result) -> Result:
    stages = ["under-trained", "good fit", "over-memorized", "over-memorized"]
    table = pd.DataFrame({"run": "run", "step": STEPS, "stage": stages, "recommended": [False, True, False, False]})
    table = table.assign(accuracy=[0.5, 0.9, 0.9, 0.9], perplexity=[2.0, 2.0, 3.0, 4.0], om_index=[0.0, 0.0, 0.4, 0.7])
    data = estimate("accuracy", table["accuracy"].to_numpy(), {"step": list(STEPS)}, "1")
    hostile = f"ship step 30 {HOSTILE} [x](http://evil.example) ![y](http://evil.example/p)"
    claims = [
        Claim(
            "over-memorized", FOUND, "accuracy held while perplexity rose", effect=0.7, low=0.5, high=0.9, step=60, n=9
        ),
        Claim("ship", FOUND, hostile, effect=0.0, low=0.0, high=0.0),
        Claim("over-fit", NONE, "accuracy fell for good"),
        Claim("worse", UNJUDGED, "accuracy fell", why="3 items", needs="8 items"),
    ]
    record = {k: v for k, v in source.record.items() if k not in ("members", "pairs", "warnings")}
    record |= {"key": key("om", source.key), "analysis": "over_memorization", "kind": "run", "inputs": {}}
    record |= {"upstream": {"perplexity": source.key}, "options": {"delta": 0.01}, "warnings": [f"careful {HOSTILE}"]}
    return Result.of(table, data, claims=claims).with_record(**record)


def unknown() -> Result:
    """A result of an analysis this version does not have: shown from its numbers alone."""
    data = estimate("effect", np.array([[-1.0, 0.5], [0.2, np.nan]]), {"layer": [0, 1], "head": [0, 1]}, "nats")
    table = pd.DataFrame({"item": ["a", "b"], "layer": [0, 1], "head": [0, 1], "effect": [-1.0, 0.5]})
    return Result.of(table, data).with_record(
        schema=SCHEMA, key=key("unknown"), analysis="made_elsewhere", kind="run", inputs={}, upstream={}, options={},
        started="2026-01-01T00:00:00+00:00", seconds=1.0, environment={}, code="", loading={},
    )  # fmt: skip


def charts(app: Any) -> list[dict[str, Any]]:
    """The figures a page shows, as its charts got them."""
    sent = [json.loads(e.proto.json) for e in app.get("bidi_component")]
    return [json.loads(data["figure"]) for data in sent if isinstance(data, dict) and "figure" in data]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two runs with perplexity and lens sweeps, a verdict full of markup, an analysis nobody knows."""
    made = Store(tmp_path_factory.mktemp("results"))
    for run, rise in (("runs/high", 0.5), ("runs/low", 0.0)):
        first = perplexity(run, rise)
        for result in (first, lens(run, rise / 10), *([staged(first)] if rise else [])):
            made.put(result)
    made.put(unknown())
    return made


@pytest.fixture(autouse=True)
def _no_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest looks through every installed package for Streamlit components on each run; there are none here."""
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., str]]:
    """A dashboard over a store, started when first asked for; its address. All are stopped at the end."""
    from apps.dashboard.serve import command, environment

    there: dict[str, str] = {}

    def address(store: Store, **variables: str) -> str:
        name = f"{store.place} {sorted(variables.items())}"
        if name not in there:
            there[name] = start(store, **variables)
        return there[name]

    def start(store: Store, **variables: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        variables = {**environment("127.0.0.1"), **variables}
        server = ended.enter_context(started(command(store, "127.0.0.1", port), env=variables, **quiet))
        until(lambda: _answers(f"http://127.0.0.1:{port}/_stcore/health"), server)
        return f"http://127.0.0.1:{port}"

    with ExitStack() as ended:
        yield address


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless chromium; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM.split())
        yield started
        started.close()


class Watched:
    """A page that remembers what must not happen: errors on the console, requests to other hosts."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.wrong.append(str(e)))
        page.on("request", lambda r: self.wrong.append(r.url) if not _local(r.url) else None)
        page.on("dialog", lambda d: self.wrong.append(f"dialog {d.message}"))


def _local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:"))


@pytest.fixture
def watched(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Open a page that is watched; everything it did wrong fails the test at its end."""
    opened: list[tuple[Any, Watched]] = []

    def open_page(url: str, **context: Any) -> Watched:
        made = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **context)
        page = Watched(made.new_page())
        opened.append((made, page))
        page.page.goto(url)
        return page

    yield open_page
    wrong = [w for _, page in opened for w in page.wrong]
    for context, _ in opened:
        context.close()
    assert not wrong
