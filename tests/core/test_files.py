"""Results at a URL, tables stacked from file to file, rows read when asked for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from analyses import Store, run, sweep
from analyses.core.running.workers import Engine
from analyses.core.store.files import Stack, Stored, StoreError
from probe.errors import InputError
from tests import tiny

pytest.importorskip("upath")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    tiny.series(made / "series", steps=(0, 10))
    lines = [f'{{"id": "q{n}", "prompt": "What is {n} + 1?", "answer": " {n + 1}"}}' for n in range(4)]
    (made / "items.jsonl").write_text("\n".join(lines))
    return made


def given(folder: Path) -> dict:
    return {"checkpoints": folder / "series", "prompts": folder / "items.jsonl"}


@pytest.fixture(params=["memory://results", "file://{}"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    found = Store.at(request.param.format(tmp_path / "results"))
    yield found
    for name, key in list(found.addresses()):
        found.drop(name, key)
    for name, key in list(found.shards.addresses()):
        found.shards.drop(name, key)


def test_a_store_at_a_url_holds_what_one_here_holds(folder: Path, store: Store, tmp_path: Path) -> None:
    there, here = sweep("perplexity", store=store, **given(folder)), sweep("perplexity", **given(folder))
    pd.testing.assert_frame_equal(there.table, here.table)
    xr.testing.assert_allclose(there.data, here.data)
    again = store.get(*store.find(there.key))
    assert again.record == there.record
    assert [r["key"] for r in store.records("perplexity")] == [there.key]
    assert len(list(store.shards.addresses())) == 2
    assert store.running() == []
    assert store.broken() == []
    rows = store.query("SELECT key, step, count(*) AS n FROM perplexity GROUP BY ALL ORDER BY step")
    assert rows["key"].unique().tolist() == [there.key]
    assert rows["n"].sum() == len(here.table)


def test_what_lies_at_a_url_is_not_computed_again(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep("perplexity", store=store, **given(folder))
    store.drop("perplexity", first.key)
    assert not store.has("perplexity", first.key)
    monkeypatch.setattr("analyses.core.running.shards.execute", lambda *_: pytest.fail("computed again"))
    assert sweep("perplexity", store=store, **given(folder)).key == first.key


def test_workers_write_to_a_url(folder: Path, tmp_path: Path) -> None:
    store = Store.at(f"file://{tmp_path}/results")
    found = sweep("perplexity", store=store, engine=Engine("ray", 2), **given(folder))
    pd.testing.assert_frame_equal(found.table, sweep("perplexity", **given(folder)).table, atol=1e-6)


def test_a_url_nobody_reads_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"posttrain-probe\[remote\]"):
        Store.at("nosuchprotocol://bucket/results")


def test_stacked_tables_equal_frames_put_together(tmp_path: Path) -> None:
    """Columns some part lacks, whole numbers beside fractions, lists, texts with gaps."""
    frames = [
        pd.DataFrame({"item": ["a", "b"], "n": [1, 2], "top": [[1, 2], [3]], "only": [0.5, 1.5]}),
        pd.DataFrame({"item": ["c", None], "n": [1.5, None], "top": [[4], [5, 6]], "step": [9, 9]}),
    ]
    parts: list[tuple[dict[str, int], Stored]] = []
    for number, frame in enumerate(frames):
        frame.to_parquet(tmp_path / f"{number}.parquet", index=False)
        parts.append(({"step": 10 * number}, Stored(tmp_path / f"{number}.parquet")))
    stack = Stack(tuple(parts))
    stack.write(tmp_path / "all.parquet")
    found, expected = pd.read_parquet(tmp_path / "all.parquet"), stack()
    assert found["step"].tolist() == [0, 0, 10, 10]
    assert [list(x) for x in found.pop("top")] == [list(x) for x in expected.pop("top")]
    pd.testing.assert_frame_equal(found, expected)


def test_rows_stay_in_their_file_until_asked_for(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = sweep("perplexity", store=store, **given(folder))
    path = store.folder("perplexity", found.key) / "table.parquet"
    assert found.rows == Stored(path)
    assert len(found.table) == len(found.table)
    lazy = store.get("perplexity", found.key)
    path.unlink()
    with pytest.raises(StoreError, match=r"table\.parquet cannot be read"):
        _ = lazy.table
    one = run("perplexity", model=folder / "series/checkpoint-0", prompts=folder / "items.jsonl")
    assert isinstance(one.rows, pd.DataFrame), "nothing is stored without a store"
