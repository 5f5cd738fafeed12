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
from analyses.core.running.inputs import Loading
from analyses.core.running.series import series_of
from analyses.core.running.sweep import sweep
from analyses.core.store.store import Store
from probe import Prompts
from probe.errors import InputError
from tests import tiny
from tests.core.conftest import Computed
from tests.processes import started, until

SCRIPT = """
import sys, time
import analyses.core.running.shards as runner
import analyses.core.running.sweep as sweeper
from analyses.core.progress import progress
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
    for name in ("one", "two"):
        shutil.copytree(series / "checkpoint-0", tmp_path / name)
    with pytest.raises(InputError, match=r"needs a step of its own.*--checkpoints 0=FOLDER"):
        sweep("perplexity", checkpoints=[str(tmp_path / n) for n in ("one", "two")], prompts=prompts)
    alone = sweep("perplexity", checkpoints=[str(tmp_path / "one")], prompts=prompts)
    assert list(alone.data["step"].values) == [0]
    assert "step of one is not known" in alone.warnings[0]
    (repository,) = series_of("org/tiny@main", Loading())  # looked up where it is loaded
    assert (repository.step, repository.label) == (0, "tiny@main")


def test_a_checkpoint_beside_itself_is_no_warning_and_its_copy_at_another_step_is(series: Path, tmp_path: Path) -> None:
    assert not any("identical" in w for w in sweep("weight_drift", checkpoints=series).warnings)
    for step in (0, 5, 10):
        shutil.copytree(series / f"checkpoint-{step // 10 * 10}", tmp_path / "run" / f"checkpoint-{step}")
    told = [w for w in sweep("weight_drift", checkpoints=tmp_path / "run").warnings if "identical" in w]
    assert len(told) == 1 and told[0].startswith("step 5: base and tuned have identical weights")


def test_stages_with_the_same_steps_are_swept_one_by_one(series: Path, prompts: Path, tmp_path: Path) -> None:
    for stage in ("rl", "sft"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "step_10").symlink_to(series / "checkpoint-10")
    with pytest.raises(InputError, match=f"rl, sft.*--checkpoints {tmp_path / 'rl'}"):
        sweep("perplexity", checkpoints=tmp_path, prompts=prompts)


def spoilt(series: Path, folder: Path) -> Path:
    """A copy whose checkpoint-20 has another tokenizer: only loading it shows."""
    copied = shutil.copytree(series, folder)
    shutil.rmtree(copied / "checkpoint-20")
    tiny.save(copied / "checkpoint-20", words=True, vocab_size=320)
    return copied


def test_one_bad_checkpoint_does_not_stop_the_others(series: Path, prompts: Path, tmp_path: Path) -> None:
    copied, store = spoilt(series, tmp_path / "mixed"), Store(tmp_path / "r")
    file = shutil.copytree(series / "checkpoint-10", copied / "checkpoint-5") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    found = sweep("perplexity", checkpoints=copied, prompts=prompts, store=store)
    assert list(found.data["step"].values) == [0, 10]
    assert [row["step"] for row in found.record["failed"]] == [5, 20]
    assert ["truncated" in found.warnings[0], "tokenizer" in found.warnings[1]] == [True, True]
    again = sweep("perplexity", checkpoints=copied, prompts=prompts, store=store)
    assert (again.key, again.record["failed"]) == (found.key, found.record["failed"])
    shutil.rmtree(copied / "checkpoint-5")
    shutil.rmtree(copied / "checkpoint-20")
    whole = sweep("perplexity", checkpoints=copied, prompts=prompts, store=store)
    assert "failed" not in whole.record
    pd.testing.assert_frame_equal(whole.table, found.table)


def test_an_error_of_every_checkpoint_is_raised(series: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no_such"):
        sweep("perplexity", checkpoints=series, prompts=prompts, no_such=1)
    for step in (0, 10, 20):
        folder = shutil.copytree(series / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="truncated"):
        sweep("perplexity", checkpoints=tmp_path, prompts=prompts)


def test_the_record_names_every_member(series: Path, prompts: Path) -> None:
    record = sweep("perplexity", checkpoints=series, prompts=Prompts.read(prompts)).record
    assert record["kind"] == "sweep"
    assert [m["step"] for m in record["members"]] == [0, 10, 20]
    assert all(m["model"]["fingerprint"] for m in record["members"])
    assert os.fspath(series / "checkpoint-10") in str(record["members"][1]["model"]["path"])


def test_a_series_is_described_by_its_own_folders(series: Path, prompts: Path, tmp_path: Path) -> None:
    """Weights that were computed before under another path have one stored member, and two series name it."""
    for name, steps in (("a", (0, 10)), ("b", (0, 20))):
        for step in steps:
            shutil.copytree(series / f"checkpoint-{step}", tmp_path / name / f"checkpoint-{step}")
    for name in ("a", "b"):
        found = sweep("perplexity", checkpoints=tmp_path / name, prompts=prompts, store=Store(tmp_path / "r"))
        assert {Path(m["model"]["path"]).parent.name for m in found.record["members"]} == {name}
    assert Store(tmp_path / "r").query("SELECT DISTINCT run FROM perplexity ORDER BY 1")["run"].tolist() == ["a", "b"]
