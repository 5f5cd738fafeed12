"""Sweeps: arities, pairs, and nothing lost when one is stopped, killed or told to use a strange series."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import analyses.core.running.run as runner
from analyses.core.running.sweep import sweep
from analyses.core.store.store import Store
from probe import Prompts
from probe.errors import InputError
from tests import tiny
from tests.core.conftest import Computed
from tests.processes import started, until

SCRIPT = """
import sys, time
import analyses.core.run as runner
import analyses.core.sweep as sweeper
from analyses.core.analysis import progress
from analyses.core.store import Store
execute = runner.execute
def pausing(call, pool):
    if list(Store.at(sys.argv[3]).shards.addresses()):
        for _ in progress(range(6000), "batches"):  # one member is stored: here the test stops us
            time.sleep(0.1)
    return execute(call, pool)
runner.execute = pausing
sweeper.sweep("perplexity", checkpoints=sys.argv[1], prompts=sys.argv[2], store=Store.at(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    rows = [f'{{"id": "q{i}", "prompt": "what is {i} plus 7 ?", "answer": "ans {i}"}}' for i in range(5)]
    path.write_text("\n".join(rows))
    return path


def shards(root: Path) -> list[Path]:
    return sorted((root / ".shards").glob("perplexity/*/record.json"))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_resumes_and_equals_an_uninterrupted_one(
    series: Path, prompts: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(series), str(prompts), str(tmp_path / "a")]
    # A shell's background job ignores SIGINT and hands that on: the child must not inherit it.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with started(command, stderr=subprocess.DEVNULL, cwd=Path.cwd(), **heeding) as process:
        until(lambda: shards(tmp_path / "a"), process)
        assert [r["done"] for r in Store(tmp_path / "a").running()] in ([0], [1])
        process.send_signal(stop)
        process.wait()
    assert len(shards(tmp_path / "a")) == 1
    assert Store(tmp_path / "a").running() == [], "a dead sweep is not shown as running"
    assert list(Store(tmp_path / "a").addresses()) == []
    resumed = sweep("perplexity", checkpoints=series, prompts=prompts, store=Store(tmp_path / "a"))
    whole = sweep("perplexity", checkpoints=series, prompts=prompts, store=Store(tmp_path / "b"))
    assert resumed.key == whole.key
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    xr.testing.assert_identical(resumed.data, whole.data)


def test_finished_members_are_not_computed_again(
    series: Path, prompts: Path, tmp_path: Path, computed: Computed
) -> None:
    computed.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        sweep("perplexity", checkpoints=series, prompts=prompts, store=Store(tmp_path))
    assert len(shards(tmp_path)) == 2
    assert Store(tmp_path).running() == []
    computed.stop_at = None
    sweep("perplexity", checkpoints=series, prompts=prompts, store=Store(tmp_path))
    assert len(computed) == len(set(computed)) == 3


def test_a_longer_series_computes_only_what_is_new(series: Path, prompts: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = [series / "checkpoint-0", series / "checkpoint-10"]
    sweep("perplexity", checkpoints=[str(p) for p in first], prompts=prompts, store=store)
    times = {p: p.stat().st_mtime_ns for p in shards(tmp_path)}
    longer = sweep("perplexity", checkpoints=series, prompts=prompts, store=store)
    assert sorted(longer.data["step"].values) == [0, 10, 20]
    assert len(shards(tmp_path)) == 3
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


def test_swapped_weights_give_what_fresh_loads_give(series: Path, prompts: Path) -> None:
    swept = sweep("perplexity", checkpoints=series, prompts=prompts).table
    for step in (0, 10, 20):
        alone = runner.run("perplexity", model=series / f"checkpoint-{step}", prompts=prompts).table
        at_step = swept[swept["step"] == step].reset_index(drop=True)
        np.testing.assert_allclose(at_step["nll_nats"], alone["nll_nats"], rtol=1e-6)


def test_a_series_without_steps_of_its_own_is_refused(series: Path, prompts: Path, tmp_path: Path) -> None:
    shutil.copytree(series / "checkpoint-0", tmp_path / "model")
    with pytest.raises(InputError, match="needs a step of its own"):
        sweep("perplexity", checkpoints=[str(tmp_path / "model")], prompts=prompts)


def test_a_series_with_another_tokenizer_is_refused(series: Path, prompts: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(series, tmp_path / "mixed")
    shutil.rmtree(copied / "checkpoint-20")
    tiny.save(copied / "checkpoint-20", words=True, vocab_size=320)
    with pytest.raises(InputError, match="tokenizer"):
        sweep("perplexity", checkpoints=copied, prompts=prompts, store=Store(tmp_path / "r"))
    assert len(shards(tmp_path / "r")) == 2, "what was finished is kept"


def test_the_record_names_every_member(series: Path, prompts: Path) -> None:
    record = sweep("perplexity", checkpoints=series, prompts=Prompts.read(prompts)).record
    assert record["kind"] == "sweep"
    assert [m["step"] for m in record["members"]] == [0, 10, 20]
    assert all(m["model"]["fingerprint"] for m in record["members"])
    assert os.fspath(series / "checkpoint-10") in str(record["members"][1]["model"]["path"])
