"""A large store, and many sweeps in one process: what is asked of it stays quick, and memory flat.

Sizes are `PROBE_SOAK` times 500 checkpoints, 2,000 items and 200 sweeps (1 in `make verify`).
"""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from analyses import Result, Store
from analyses.core.running.together import sweep_together
from analyses.core.stats import estimate
from apps import catalog
from apps.command.cli import app
from probe import Prompts
from tests import tiny

PART = float(os.environ.get("PROBE_SOAK", "1"))
STEPS, ITEMS, SWEEPS = (max(4, round(n * PART)) for n in (500, 2000, 200))
SECONDS = 30  # for one question on a busy machine
FLAT_MB = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A sweep of every step over every item, and each step's member beside it."""
    found, rng = Store(tmp_path_factory.mktemp("soak")), np.random.default_rng(0)
    tables: list[pd.DataFrame] = []
    for step in range(STEPS):
        nll = rng.gamma(2.0, 1.0, ITEMS)
        table = pd.DataFrame({"item": [f"q{i:05d}" for i in range(ITEMS)], "group": "a", "answer_kind": "given"})
        tables.append(table.assign(mask="answer", nll_nats=nll, n_tokens=4).assign(step=step))
        member = Result.of(tables[-1].drop(columns="step"), _arrays(tables[-1]))
        found.shards.put(member.with_record(**_record(f"{step:016x}", "run", [step])))
    whole = pd.concat(tables, ignore_index=True)
    swept = Result.of(whole, _arrays(tables[0]).expand_dims(step=[0]))
    found.put(swept.with_record(**_record("f" * 16, "sweep", list(range(STEPS)))))
    return found


def _arrays(table: pd.DataFrame) -> object:
    return estimate(table, "nll_nats", ["group"], seed=0, units="nats")


def _record(key: str, kind: str, steps: list[int]) -> dict[str, object]:
    inputs = {"prompts": {"source": "items.jsonl", "n": ITEMS, "fingerprint": "p"}}
    said = {"schema": 1, "analysis": "perplexity", "key": key, "kind": kind, "inputs": inputs, "options": {}}
    return {**said, "warnings": [], "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "steps": steps}


@pytest.mark.verify
def test_a_large_store_answers(store: Store) -> None:
    """`show`, `query`, the dashboard's listing and `gc` of 500 checkpoints x 2,000 items."""
    sql = "SELECT step, avg(nll_nats) AS mean FROM perplexity GROUP BY step ORDER BY step"
    where = ["--results", str(store.root)]
    took = {
        "show": seconds(lambda: ran(["show", *where])),
        "query": seconds(lambda: _counted(ran(["query", sql, "--json", *where]))),
        "listing": seconds(lambda: catalog.listing(store)),
        "gc": seconds(lambda: ran(["gc", *where])),
    }
    print({name: round(value, 2) for name, value in took.items()})
    assert max(took.values()) < SECONDS
    assert len(store.get("perplexity", "f" * 16).table) == STEPS * ITEMS
    assert not store.shards.records()  # members of a sweep that is there are what gc takes


def _counted(output: str) -> None:
    assert len(json.loads(output)) == STEPS


def ran(words: list[str]) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.verify
def test_memory_stays_flat_over_many_sweeps(tmp_path: Path) -> None:
    """Two hundred sweeps of two analyses in one process: the last hundred add less than 60 MB."""
    series = tiny.series(tmp_path / "run", (0, 10))
    items = [{"id": f"q{n}", "prompt": f"what is {n} plus 7 ?", "answer": f" ans {n}"} for n in range(8)]
    held = list[float]()
    for number in range(SWEEPS):
        prompts = Prompts.of([{**item, "answer": f"{item['answer']} {number}"} for item in items])
        names = ("perplexity", "similarity")
        sweep_together(names, checkpoints=series, prompts=prompts, store=Store(tmp_path / "results"))
        gc.collect()
        held.append(resident())
    told = [round(x) for x in (held[0], held[SWEEPS // 2], held[-1])]
    print(f"{SWEEPS} sweeps: MB after the first, half-way, at the end: {told}")
    assert held[-1] - held[SWEEPS // 2] < FLAT_MB


def resident() -> float:
    """Own memory of this process, in MB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
