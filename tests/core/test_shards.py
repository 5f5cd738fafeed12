"""Shards of items and halved batches: what is kept, and that neither changes a number."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import xarray as xr

import analyses.core.running.call as call
import analyses.core.running.run as runner
from analyses import Store, run
from analyses.core.analysis import Analysis, get
from analyses.core.running import shards as module
from probe.errors import ProbeError
from tests import tiny
from tests.core.conftest import Computed

OPTIONS = {
    "perplexity": {},
    "divergence": {},
    "logit_lens": {"top_k": 2},
    "attention_entropy": {},
    "attention_length": {},
    "evidence_attention": {},
    "multiple_choice": {"batch_size": 3},
    "evaluate": {"max_new_tokens": 3, "samples": 2, "ks": (1, 2), "grade": "exact"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    tiny.series(made / "series", steps=(0, 10))
    lines = [
        f'{{"id": "q{n}", "prompt": "What is {n} + {n}?", "answer": " {2 * n}", "group": "{"ab"[n % 2]}", '
        f'"evidence": "{n} + {n}"}}'
        for n in range(11)
    ]
    (made / "items.jsonl").write_text("\n".join(lines))
    asked = [
        f'{{"id": "q{n}", "prompt": "What is {n} + {n}?", "choices": ["{2 * n}", "{n}", "{3 * n + 1} figs"], '
        f'"correct": {n % 3}, "group": "{"ab"[n % 2]}"}}'
        for n in range(11)
    ]
    (made / "choices.jsonl").write_text("\n".join(asked))
    return made


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ITEMS", 4)


def given(folder: Path, name: str) -> dict:
    models = {"model": folder / "series/checkpoint-10"}
    if get(name).arity == "pair":
        models = {"base": folder / "series/checkpoint-0", "tuned": folder / "series/checkpoint-10"}
    prompts = folder / ("choices.jsonl" if name == "multiple_choice" else "items.jsonl")
    return {**models, "prompts": prompts, **OPTIONS[name]}


def kept(store: Store, name: str = "perplexity") -> list[Path]:
    return sorted((store.root / ".shards" / name).glob("*/record.json"))


def same(a, b) -> None:
    pd.testing.assert_frame_equal(a.table, b.table, atol=1e-6, rtol=1e-5)
    xr.testing.assert_allclose(a.data, b.data, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_shards_give_what_one_piece_gives(folder: Path, tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    cut, whole = run(name, store=store, **given(folder, name)), run(name, **given(folder, name))
    same(cut, whole)
    assert cut.key == whole.key
    assert cut.warnings == whole.warnings
    assert len(kept(store, name)) == len(cut.record["shards"]) == 3
    assert store.get(name, cut.key).record == cut.record


def test_every_analysis_that_is_cut_is_tested_here() -> None:
    from analyses.core.analysis import names

    assert {n for n in names() if get(n).by_item} == set(OPTIONS)


def test_a_stopped_run_goes_on_at_its_next_shard(folder: Path, tmp_path: Path, computed: Computed) -> None:
    store = Store(tmp_path)
    computed.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        run("perplexity", store=store, **given(folder, "perplexity"))
    assert len(kept(store)) == 2
    computed.stop_at = None
    same(
        run("perplexity", store=store, **given(folder, "perplexity")), run("perplexity", **given(folder, "perplexity"))
    )
    assert len(computed) == len(set(computed)) == 4, "three shards, and the run in one piece"


def test_a_log_of_all_items_is_read_in_one_piece(folder: Path, tmp_path: Path) -> None:
    log = pd.DataFrame({"item": [f"q{n}" for n in range(11)], "sample": 0, "text": [f"ans {2 * n}" for n in range(11)]})
    found = run("evaluate", store=Store(tmp_path), log=log, prompts=folder / "items.jsonl", grade="number")
    assert len(found.table) == 11
    assert (found.table["correct"] == 1.0).all()
    assert not kept(Store(tmp_path), "evaluate")


def test_a_longer_file_starts_with_the_shards_of_a_shorter_one(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run("perplexity", store=store, limit=8, **given(folder, "perplexity"))
    before = {p: p.stat().st_mtime_ns for p in kept(store)}
    run("perplexity", store=store, **given(folder, "perplexity"))
    after = kept(store)
    assert len(before) == 2
    assert len(after) == 3
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def _memory_for(monkeypatch: pytest.MonkeyPatch, items: int, error: BaseException) -> list[int]:
    """A machine whose memory holds batches of so many items; the sizes that were tried."""
    from dataclasses import replace

    of, tried = get("perplexity"), []

    def function(model, prompts, *, batch_size: int, **options):
        tried.append(batch_size)
        if batch_size > items:
            raise error
        return of.function(model, prompts, batch_size=batch_size, **options)

    limited: Analysis = replace(of, function=function)
    monkeypatch.setattr(runner, "get", lambda name: limited)
    monkeypatch.setattr(call.inspect, "getfile", lambda _: "perplexity.py")
    monkeypatch.setattr(call, "source_hash", lambda _: "0" * 16)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("Unable to allocate 9 GiB"),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = run("perplexity", **given(folder, "perplexity"))
    tried = _memory_for(monkeypatch, 2, error)
    found = run("perplexity", batch_size=8, **given(folder, "perplexity"))
    assert tried == [8, 4, 2]
    assert found.warnings == ["out of memory at batch_size 8: computed with 2"]
    assert found.record["options"]["batch_size"] == 8, "what was asked for"
    same(found, whole)


def test_out_of_memory_with_one_item_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _memory_for(monkeypatch, 0, MemoryError("Unable to allocate 9 GiB"))
    with pytest.raises(ProbeError, match=r"one item at a time \(Unable to allocate 9 GiB\).*probe plan"):
        run("perplexity", batch_size=2, **given(folder, "perplexity"))
    assert tried == [2, 1]


def test_other_errors_pass_as_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _memory_for(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run("perplexity", batch_size=2, **given(folder, "perplexity"))
    assert tried == [2]


def test_a_batch_that_really_does_not_fit_is_halved(folder: Path) -> None:
    """The allocator of this machine itself: address space limited in a process of its own."""
    import subprocess
    import sys

    code = (
        "import resource, torch\n"
        "from probe.devices import is_out_of_memory\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))\n"
        "try:\n    torch.ones(2**32)\n"
        "except (RuntimeError, MemoryError) as error:\n    print(is_out_of_memory(error))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert told.stdout.strip() == "True", told.stdout + told.stderr
