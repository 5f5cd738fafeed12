"""Sweeps on a Ray cluster: the same numbers, whoever dies on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from analyses import Store, sweep
from analyses.core import engine as module
from analyses.core.engine import Engine
from probe.errors import InputError, ProbeError
from tests import tiny
from tests.conftest import ROOT

STEPS = (0, 10, 20, 30)
DRIVER = """
import sys
from pathlib import Path
from analyses import Store, sweep
from analyses.core.engine import Engine
folder = Path(sys.argv[1])
sweep("perplexity", checkpoints=folder / "series", prompts=folder / "items.jsonl", store=Store(folder / "killed"),
      engine=Engine("ray", 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of tiny checkpoints and a prompt file."""
    made = tmp_path_factory.mktemp("engine")
    tiny.series(made / "series", steps=STEPS)
    lines = [f'{{"id": "q{n}", "prompt": "What is {n} + 1?", "answer": " {n + 1}"}}' for n in range(6)]
    (made / "items.jsonl").write_text("\n".join(lines))
    return made


def swept(folder: Path, store: Store | None, **options):
    given = {"checkpoints": folder / "series", "prompts": folder / "items.jsonl", "store": store}
    return sweep("perplexity", **given, **options)


def shards(store: Store) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (store.root / ".shards").glob("perplexity/*/record.json")}


def workers() -> list[int]:
    """Process ids of the Ray workers that this process has started."""
    import psutil

    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Worker"):
                found.append(child.pid)
    return found


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    return swept(folder, Store(tmp_path_factory.mktemp("alone")))


def same(a, b) -> None:
    pd.testing.assert_frame_equal(a.table, b.table, atol=1e-6)
    xr.testing.assert_allclose(a.data, b.data, atol=1e-6)


def test_two_workers_give_what_one_process_gives(folder: Path, alone, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = swept(folder, store, engine=Engine("ray", 2))
    same(found, alone)
    assert found.key == alone.key
    assert found.record["engine"] == {"name": "ray", "workers": 2, "address": None}
    assert alone.record["engine"] == {"name": "local"}
    assert len(shards(store)) == len(STEPS)
    assert not store.running()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.verify)])
def test_killed_workers_lose_nothing_and_repeat_nothing_finished(
    folder: Path, alone, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen, left = Store(tmp_path), {}, [kills]
    ended = threading.Event()

    def hunt() -> None:
        rng = random.Random(0)
        while not ended.wait(rng.uniform(0.5, 2.0)) and left[0]:
            seen.update({p: t for p, t in shards(store).items() if p not in seen})
            for pid in rng.sample(workers(), min(1, len(workers()))):
                os.kill(pid, signal.SIGKILL)
                left[0] -= 1

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        found = swept(folder, store, engine=Engine("ray", 2))
    finally:
        ended.set()
        hunter.join()
    same(found, alone)
    assert left[0] < kills  # somebody was hit
    assert {p: t for p, t in shards(store).items() if p in seen} == seen  # what was there was not written again


def test_a_killed_driver_resumes(folder: Path, alone) -> None:
    quiet = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], env=quiet, stderr=subprocess.DEVNULL)
    store = Store(folder / "killed")
    limit = time.monotonic() + 90
    while not shards(store) and driver.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = shards(store)
    assert before
    same(swept(folder, store, engine=Engine("ray", 2)), alone)
    assert {p: t for p, t in shards(store).items() if p in before} == before


def test_what_cannot_run_says_why(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="give one"):
        swept(folder, None, engine=Engine("ray"))
    with pytest.raises(ProbeError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        swept(folder, Store(tmp_path), engine=Engine("ray", address="127.0.0.1:1"))


def test_workers_with_other_code_are_refused_with_both_versions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "code_identity", lambda: "posttrain-probe 0.0.1 (code old), Python 3.8")
    with pytest.raises(InputError, match=r"has posttrain-probe .*; the driver has posttrain-probe 0\.0\.1"):
        swept(folder, Store(tmp_path), engine=Engine("ray", 1))


def test_a_bad_input_found_by_a_worker_is_told_as_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / "long.jsonl").write_text(f'{{"id": "long", "prompt": "{"word " * 5000}", "answer": " 1"}}')
    with pytest.raises(InputError, match="long"):
        sweep(
            "perplexity",
            checkpoints=folder / "series",
            prompts=folder / "long.jsonl",
            store=Store(tmp_path),
            engine=Engine("ray", 1),
        )
